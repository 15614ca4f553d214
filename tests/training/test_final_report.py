"""What is said at the end of a training."""

import json
import logging
import shlex

import pytest
import yaml
from rows import EIGHT
from transformers import TrainerState

from qwen_ner import cli
from qwen_ner.codec import Codec
from qwen_ner.data.datasets import write_jsonl
from qwen_ner.entities import CLUENER, Entity, Example
from qwen_ner.evaluation.result import EvaluationResult
from qwen_ner.evaluation.table import Contract
from qwen_ner.inference.evaluate import evaluate
from qwen_ner.inference.extractor import Extractor
from qwen_ner.training.final_report import calibrate, nothing_right
from qwen_ner.training.recipe import NerTrainingArguments, load_recipe
from qwen_ner.training.run import train


def one_step(folder, **keys):
    """A recipe of one step without evaluations, in `folder`."""
    keys |= {
        "output_dir": str(folder / "out"),
        "max_steps": 1,
        "max_new_tokens": 4,
        "use_cpu": True,
        "report_to": "none",
    }
    keys |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return load_recipe(path)


@pytest.mark.slow
def test_without_a_test_split_it_is_said_on_what_the_score_rests(tiny, tmp_path, capsys):
    rows = [type(gold)(f"{i}-{k}", f"{gold.text}{k}", gold.entities) for k in range(3) for i, gold in enumerate(EIGHT)]
    data = tmp_path / "data"
    write_jsonl(data / "train.jsonl", rows[8:])
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: {tiny}\ndataset: {data}\nvalidation_rows: 4\nmax_steps: 1\nuse_cpu: true\n"
        "max_new_tokens: 4\nreport_to: none\n"
        'examples: ["三星\\e[31m手机"]\n',
        encoding="utf-8",
    )

    def said(*more):
        train(load_recipe(path, ["--output_dir", str(tmp_path / f"out{len(more)}"), *more]))
        out = capsys.readouterr().out
        assert "\n三星\\x1b[31m手机\n" in out, "a text cannot write to the terminal"
        return [line for line in out.splitlines() if "has no test split" in line]

    (line,) = said()
    assert "the score is of 1 validation row, held out of train, which also chose the checkpoint" in line
    assert json.loads((tmp_path / "out0" / "metrics.json").read_text())["training"]["local_data"] is True
    (line,) = said("--eval_strategy", "no", "--load_best_model_at_end", "false")
    assert "chose" not in line, "no evaluation chose anything"
    (line,) = said("--load_best_model_at_end=false", "--seed", "2")
    assert "chose" not in line, "the last weights are kept"
    assert json.loads((tmp_path / "out3" / "metrics.json").read_text())["training"]["validation"]["best"] is None
    write_jsonl(data / "dev.jsonl", rows[:8])
    (line,) = said("--seed", "1")
    assert "the score is of 8 dev rows, which also chose the checkpoint" in line
    write_jsonl(data / "test.jsonl", rows[:8])
    assert said("--seed", "1", "--data_seed", "1", "--logging_steps", "1") == []


@pytest.mark.slow
@pytest.mark.parametrize("split", ["dev", "test"])
def test_rows_that_are_trained_on_and_scored_are_told_before_the_training_and_below_the_score(
    tiny, tmp_path, caplog, split
):
    rows = [type(gold)(f"{i}", f"{gold.text}{i}", gold.entities) for i, gold in enumerate([*EIGHT, *EIGHT])]
    write_jsonl(tmp_path / "data" / "train.jsonl", rows[:8])
    write_jsonl(tmp_path / "data" / "dev.jsonl", rows[6:10] if split == "dev" else rows[10:])
    if split == "test":
        write_jsonl(tmp_path / "data" / "test.jsonl", rows[6:10])
    recipe = one_step(tmp_path, model_name_or_path=str(tiny), dataset=str(tmp_path / "data"))
    with caplog.at_level(logging.WARNING):
        train(recipe)
    told = [message for message in caplog.messages if f"2 of 4 {split} rows are in the training rows too" in message]
    assert len(told) == 2
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("qwen_ner")]
    assert told[-1] in ours[-2:], "one warning is of the f1 of 0"


@pytest.mark.parametrize("dataset", ["sample", "own"])
def test_a_toy_is_called_a_toy_and_only_the_sample_made_up(tmp_path, taught, capsys, caplog, monkeypatch, dataset):
    data = str(taught) if dataset == "own" else "sample"
    few = {"validation_rows": 4, "max_train_samples": 8, "max_eval_samples": 2}
    recipe = one_step(tmp_path, model_name_or_path="tiny", dataset=data, **few)
    with caplog.at_level(logging.WARNING):
        train(recipe)
    assert "2 of 2 answers not JSON, truncated or miscopied" in caplog.messages[-1]
    printed = capsys.readouterr().out
    assert "This was a toy model" in printed
    assert ("made-up" in printed) is (dataset == "sample")
    assert f"trained on {taught if dataset == 'own' else 'sample'}: 8 rows" in printed.splitlines()[-7:]
    assert (f"This was a toy model on {taught}:" in printed) is (dataset == "own")
    monkeypatch.chdir(tmp_path)
    first, second = (shlex.split(line) for line in printed.splitlines()[-2:])
    if dataset == "sample":
        assert load_recipe(first[2], [*first[3:], "--use_cpu", "--bf16", "false"]).data.dataset == "cluener"
        return
    cli.main(first[1:])
    recipe = load_recipe(second[2], [*second[3:], "--use_cpu"])
    assert recipe.data.dataset == str(taught)
    assert recipe.training.output_dir == str(tmp_path / "out-lora"), "not that of the toy, whose checkpoints are others"
    assert (recipe.model.model_name_or_path, recipe.model.lora_r) == ("Qwen/Qwen2.5-0.5B-Instruct", 16)
    assert recipe.training.learning_rate == 4e-4


def test_what_to_do_next_is_not_said_of_a_part_of_a_larger_run(tmp_path, taught, capsys):
    few = {"validation_rows": 4, "max_train_samples": 8, "max_eval_samples": 2}
    train(one_step(tmp_path, model_name_or_path="tiny", dataset=str(taught), **few), advise=False)
    printed = capsys.readouterr().out
    assert "report: " in printed.splitlines()[-1]
    assert "for a final test give" not in printed


def zero(tmp_path, *written, finished=True, **options):
    """What is said of answers to the first rows of EIGHT that are all wrong."""
    gold = EIGHT[: len(written)]
    answers = [Codec(CLUENER).decode(e.text, text, finished=finished) for e, text in zip(gold, written, strict=True)]
    args = NerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, learning_rate=3e-3, **options)
    state = TrainerState(global_step=45)
    contract = Contract("model", "data", "test", len(gold), "", "free")
    return nothing_right(EvaluationResult(contract, gold, answers, CLUENER), args, state)


def test_an_f1_of_0_is_explained_with_the_numbers_of_the_run(tmp_path):
    written = "{", "{}"
    (finding,) = zero(
        tmp_path, *written, num_train_epochs=5, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    assert "1 of 2 answers not JSON, truncated or miscopied" in finding.found
    for part in (
        "num_train_epochs (now 5, which gave 45 steps)",
        "fewer rows per step than 8",
        "learning_rate (0.003)",
    ):
        assert part in finding.remedy
    (finding,) = zero(tmp_path, *written, finished=False, max_steps=45)
    assert "2 of 2 answers not JSON, truncated or miscopied" in finding.found
    assert "max_steps (now 45" in finding.remedy


def test_wrong_answers_are_told_from_none(tmp_path):
    (finding,) = zero(tmp_path, '{"name":["无人"]}', "{}", "{}")
    assert "was found (wrong ones: 1); 0 of 3 answers not JSON" in finding.found
    assert "check how test is annotated" in finding.remedy


def test_nothing_is_said_of_what_is_right_or_has_no_entity(tmp_path):
    assert zero(tmp_path, Codec(CLUENER).encode(EIGHT[0]), "{") == []
    assert zero(tmp_path) == []


def test_a_model_is_scored_on_the_rows_of_its_file_that_were_held_out(tmp_path, capsys):
    """`evaluate` on the file scores the rows, and gives the figures, of the end of the training."""
    names = [f"药{chr(0x4E00 + n)}素" for n in range(24)]
    rows = [Example(str(n), f"服{name}后好转", (Entity("drug", name, 1, 4),)) for n, name in enumerate(names)]
    write_jsonl(tmp_path / "own.jsonl", rows)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: tiny\ndataset: {tmp_path / 'own.jsonl'}\noutput_dir: {tmp_path / 'out'}\n"
        "validation_rows: 4\nmax_steps: 1\nmax_new_tokens: 4\nuse_cpu: true\neval_strategy: no\nsave_strategy: no\n"
        "report_to: none\n",
        encoding="utf-8",
    )
    train(load_recipe(path))
    written = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    (again,) = evaluate(str(tmp_path / "out"), str(tmp_path / "own.jsonl"), decodings=["free"])
    assert again.contract.fingerprint == written["contract"]["fingerprint"]
    for figures in ("surface", "floor", "seen", "unseen"):
        assert again.to_dict()[figures] == written[figures]
    assert written["floor"]["f1"] == 0
    assert written["unseen"]["fn"] > 0, "the rows that are scored are not those that were seen"


def test_the_f1_of_the_validation_rows_counts_places_where_the_target_tells_them(trained):
    """Each place is found and to be found, so that it is no more than 1."""
    extractor = Extractor.from_pretrained(trained["inline"])
    _, judged, gold = calibrate(extractor, EIGHT)
    assert gold.total() == sum(len(row.entities) for row in EIGHT)
    right = sum(one.correct for one in judged)
    assert 0 < right <= min(len(judged), gold.total())
    twice = Example("2", "北京在北京", (Entity("address", "北京", 0, 2), Entity("address", "北京", 3, 5)))
    assert calibrate(extractor, [twice])[2].total() == 2


def test_the_f1_of_the_validation_rows_under_constrained_decoding_is_that_of_evaluate(trained, taught):
    written = json.loads((trained["full"] / "metrics.json").read_text(encoding="utf-8"))
    (again,) = evaluate(str(trained["full"]), str(taught), "dev", decodings=["constrained"])
    f1 = again.scores.micro.f1
    assert f1 > 0
    assert written["training"]["validation"]["constrained_f1"] == pytest.approx(f1)
    assert f"(f1 {100 * f1:.2f})" in written["confidence"]["of"]
