"""A training on documents that do not fit into a row: they are split, and read as the trained model reads them."""

import json
import logging
from dataclasses import replace

import pytest
from rows import EIGHT

from qwen_ner.contract import NerConfig
from qwen_ner.data.datasets import write_jsonl
from qwen_ner.entities import Example
from qwen_ner.inference.evaluate import evaluate
from qwen_ner.training.doctor.checks import check_answers, check_empty, check_rows
from qwen_ner.training.plan import TrainingPlan
from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train


def document(name, sentences):
    """Sentences of `EIGHT` in one text."""
    text, entities = "", []
    for n in range(sentences):
        row = EIGHT[n % len(EIGHT)]
        entities += [replace(e, start=e.start + len(text), end=e.end + len(text)) for e in row.entities]
        text += f"{row.text}第{n}次{name}。"
    return Example(name, text, tuple(entities))


@pytest.fixture
def recipe(tiny, tmp_path):
    short = [replace(row, id=f"{k}-{n}", text=f"{row.text}{k}") for k in range(4) for n, row in enumerate(EIGHT)]
    write_jsonl(tmp_path / "data" / "train.jsonl", [*short, document("长", 40), document("久", 24)])
    write_jsonl(tmp_path / "data" / "dev.jsonl", [*short[:3], document("测", 16)])
    write_jsonl(tmp_path / "data" / "test.jsonl", [*short[3:6], document("末", 20)])
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: {tiny}\ndataset: {tmp_path / 'data'}\nsystem_prompt: 找出实体\nuse_cpu: true\nmax_length: 160\n"
        "eval_strategy: steps\nsave_strategy: steps\nlearning_rate: 1e-2\nreport_to: none\nmax_steps: 24\neval_steps: 12\n"
        f"save_steps: 12\nper_device_train_batch_size: 8\noutput_dir: {tmp_path / 'out'}\n",
        encoding="utf-8",
    )
    return path


def plan_of(recipe, tmp_path, *more):
    return TrainingPlan(load_recipe(recipe, more), tmp_path, outline=True)


def test_long_training_rows_are_split_and_all_of_their_entities_are_trained_on(recipe, tmp_path, caplog):
    plan = plan_of(recipe, tmp_path)
    with caplog.at_level(logging.INFO):
        assert max(plan.fitting_rows["length"]) <= 160
    entities = sum(len(example.entities) for example in plan.splits.train)
    assert sum(len(plan.examples[row].entities) for row in plan.fitting_rows["row"]) == entities
    lost = sum(len(example.entities) for example in plan.splits.train[-2:])
    said = f"2 rows split into {plan.split_rows.windows} windows, with {lost} of {lost} entities"
    assert said in caplog.text
    finding = check_rows(plan)
    assert finding.level == "ok"
    assert said in finding.found
    assert plan.config.window == max(len(example.text) for example in plan.examples)
    assert plan_of(recipe, tmp_path, "--max_length", "2000").examples is not plan.examples
    assert plan_of(recipe, tmp_path, "--max_length", "2000").split_rows.documents == 0


def test_a_text_to_score_is_read_in_windows_and_is_one_row(recipe, tmp_path):
    plan = plan_of(recipe, tmp_path)
    assert len(plan.validation_rows) > len(plan.splits.validation) == 4
    assert len(plan.final_rows) > len(plan.splits.final) == 4
    assert [row for row, _ in plan.gold_windows] == sorted(row for row, _ in plan.gold_windows)
    assert {row for row, _ in plan.gold_windows} == set(range(8))
    assert max(len(part.text) for part in plan.gold_parts) <= plan.config.window


@pytest.mark.parametrize(("given", "expected"), [((), None), (("--max_new_tokens", "37"), 37)])
def test_max_new_tokens_is_the_recipe_s_or_what_the_training_answers_need(recipe, tmp_path, caplog, given, expected):
    plan = plan_of(recipe, tmp_path, *given)
    longest = max(map(len, plan.fitting_rows["answer_ids"]))
    with caplog.at_level(logging.INFO):
        assert plan.config.max_new_tokens == (expected or plan.max_new_tokens)
    if not given:
        assert 1.5 * longest <= plan.max_new_tokens < 1.5 * longest + 32
        assert (
            f"max_new_tokens is set to {plan.max_new_tokens}: the longest training answer has {longest}" in caplog.text
        )
        assert check_answers(plan).level == "ok"


def test_answers_that_fill_the_context_get_what_is_left_of_it(recipe, tmp_path):
    plan = plan_of(recipe, tmp_path)
    plan.made[type(plan).__dict__["context"]] = max(plan.documents["length"]) + 5
    plan.recipe.data.max_length = None
    prompts, answers = (max(map(len, plan.fitting_rows[f"{name}_ids"])) for name in ("prompt", "answer"))
    assert answers <= plan.max_new_tokens <= plan.context - prompts


@pytest.mark.slow
def test_the_score_of_a_training_is_that_of_evaluating_its_folder(recipe, tmp_path, capsys):
    """Texts longer than a window included."""
    scores = train(load_recipe(recipe))
    (evaluated,) = evaluate(str(tmp_path / "out"), str(tmp_path / "data"), "test", decodings=["free"])
    assert json.loads(json.dumps(evaluated.scores.to_dict())) == json.loads(
        json.dumps({name: value for name, value in scores.items() if name != "training"})
    )
    assert scores["rows"] == 4
    assert NerConfig.load(tmp_path / "out").max_new_tokens == plan_of(recipe, tmp_path).max_new_tokens
    (best,) = evaluate(str(tmp_path / "out"), str(tmp_path / "data"), "dev", decodings=["free"])
    assert best.scores.metrics()["f1"] == pytest.approx(scores["training"]["validation"]["best"])


def test_a_window_without_entities_teaches_the_empty_answer(recipe, tmp_path):
    plot = document("长", 8)
    rows = [replace(plot, id=str(n), text=f"{plot.text}{'很久以前。' * 100}{n}") for n in range(4)]
    write_jsonl(tmp_path / "data" / "train.jsonl", rows)
    assert check_empty(plan_of(recipe, tmp_path)).level == "ok"
    assert check_empty(plan_of(recipe, tmp_path, "--max_length", "2000")).level == "warn"
