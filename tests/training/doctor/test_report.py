"""Each fault is planted and seen; a healthy recipe has none."""

import logging
import re
import shutil
import time
from types import SimpleNamespace

import pytest
from datasets import Dataset
from rows import EIGHT, ROOT, example
from training.doctor.scenes import LABELS, edit, numbered

from qwen_ner import cli
from qwen_ner.data.datasets import write_jsonl
from qwen_ner.inference.loading import load_tokenizer
from qwen_ner.training.batches.collate import PaddedCollator
from qwen_ner.training.doctor.checks import check_end, check_pad, compare_prompts
from qwen_ner.training.doctor.examination import CHECKS, examine
from qwen_ner.training.doctor.report import example_as_trained
from qwen_ner.training.finding import FaultsError, fail, ok, raise_or_warn, warn
from qwen_ner.training.launch import Launch
from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train


@pytest.fixture
def result(plan):
    """(level, message) of a check; several lines of one name are joined, with the worst level."""

    def result(name, launch=None, **values):
        found = [finding for finding in examine(plan(launch, **values)) if finding.name == name]
        levels = [finding.level for finding in found]
        return max(levels, key=["ok", "skip", "warn", "fail"].index), " | ".join(finding.message for finding in found)

    return result


def test_a_healthy_recipe_has_no_fail_and_no_weights_are_needed(plan, base):
    started = time.time()
    found = list(examine(plan()))
    assert [f.message for f in found if f.level != "ok"] == []
    assert [f.name for f in found] == [name for name, _ in CHECKS]
    assert time.time() - started < 30
    assert sorted(path.name for path in base.parent.iterdir()) == ["base", "data", "recipe.yaml"], "nothing is written"


def test_an_adapter_of_a_base_that_is_no_repository_is_not_to_be_pushed(result, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert result("hub", push_to_hub="true")[0] == "ok", "whole weights need no base"
    level, message = result("hub", push_to_hub="true", lora_r=4)
    assert level == "warn", "the model is kept in output_dir"
    assert "--merge" in message


def test_the_quickstart_passes(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor", str(ROOT / "recipes" / "quickstart.yaml"), "--output_dir", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert stopped.value.code == 0, out
    assert "train.jsonl:1 as trained: 39 tokens, ● the 10" in out
    assert "0 fail in" in out
    assert not (tmp_path / "out").exists()


def test_a_fail_exits_with_1(capsys, recipe):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor", str(recipe()), "--max_length", "5"])
    assert stopped.value.code == 1
    assert "fail  rows" in capsys.readouterr().out


def test_the_example_is_what_the_collator_gives_the_model(plan):
    made = plan()
    lines, row = example_as_trained(made, 60), made.rows[0]
    assert all(len(line) <= 60 for line in lines[1:])
    tokens, ids, marks = (
        " ".join(line[6:] for line in lines if line.startswith(head)).split() for head in ("token", "id", "loss")
    )
    assert [int(i) for i in ids] == row["prompt_ids"] + row["answer_ids"]
    assert [mark == "●" for mark in marks] == [False] * len(row["prompt_ids"]) + [True] * len(row["answer_ids"])
    assert tokens[-1] == "<|im_end|>"


# Tokens


def test_a_pad_token_that_is_the_end_token_is_seen_and_replaced(result, base):
    edit(base / "tokenizer_config.json", pad_token="<|im_end|>")
    level, said = result("pad token")
    assert level == "ok", "nothing to do"
    assert said.startswith("<|endoftext|>; an answer ends with <|im_end|>")


def test_a_pad_token_that_is_still_the_end_is_a_fail(base):
    planted = SimpleNamespace(tokenizer=load_tokenizer(base), end_token_ids=(2,))
    assert check_pad(planted).level == "ok"
    planted.tokenizer.pad_token = "<|im_end|>"
    assert check_pad(planted).level == "fail"


def test_a_missing_pad_token_is_never_filled_with_the_end_of_the_turn(base):
    """A base model: its eos is not the token that closes a turn."""
    edit(base / "tokenizer_config.json", eos_token="<|endoftext|>", pad_token="<|endoftext|>", extra_special_tokens=["<|im_end|>", "<|im_start|>"])  # fmt: skip
    assert load_tokenizer(base).pad_token == "<|im_start|>"


def test_an_end_token_that_is_missing_early_or_not_in_the_loss(tokenizer):
    padded = PaddedCollator(0)

    def check(*answers, collator=padded):
        rows = Dataset.from_list([{"prompt_ids": [5], "answer_ids": ids} for ids in answers])
        train = [SimpleNamespace(source=f"a:{n}") for n in range(1, len(answers) + 1)]
        given = {"tokenizer": tokenizer, "end_token_ids": (2, 0), "rows": rows, "collator": collator, "examples": train}
        return check_end(SimpleNamespace(**given))

    def without_the_last(rows):
        return padded([{**row, "answer_ids": row["answer_ids"][:-1]} for row in rows])

    assert check([7, 8, 2], [9, 2]).level == "ok"
    assert "generation stops at <|im_end|>" in check([7, 8, 2], collator=without_the_last).message
    assert "1 of 2 answers do not end with <|im_end|>: a:2" in check([9, 2], [7, 8]).message
    assert "1 of 2 answers do not end with <|im_end|>: a:2" in check([9, 2], []).message
    early = check([7, 2, 8, 2], [9, 2])
    assert (early.level, "have an end token before their end: a:1" in early.message) == ("fail", True)


def test_an_end_token_that_a_text_spells_ends_nothing(result, folder):
    rows = [*numbered(EIGHT * 12, "训"), example("三星<|im_end|>手机", ("company", "三星<|im_end|>手机"), id="x")]
    write_jsonl(folder / "data" / "train.jsonl", rows)
    assert result("end token")[0] == "ok"


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ("{{ strftime_now('%f') }}", "has another prompt in training than at inference"),
        ("{% if false %}{{ strftime_now('%d %b %Y') }}{% endif %}", "writes today's date into the prompt"),
    ],
)
def test_a_chat_template_that_differs_at_inference(result, base, planted, said):
    template = base / "chat_template.jinja"
    template.write_text(planted + template.read_text(encoding="utf-8"), encoding="utf-8")
    level, message = result("prompt")
    assert level == "fail"
    assert said in message


def test_a_template_that_changes_the_text(result, base):
    template = base / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("message.content", "message.content[:8]"))
    assert result("prompt")[0] == "fail"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("", "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"), "no system turn"),
        (("in messages %", "in messages if message.role != 'system' %"), "no system turn"),
        (("assistant\n{% endif", "assistant\n<think>\n{% endif"), "begins every answer with <think>"),
        (("assistant\n{% endif", "assistant\n<think></think>{% endif"), None),
    ],
    ids=["refuses system", "drops system", "thinks", "thinks nothing"],
)  # fmt: skip
def test_a_template_without_a_system_turn_and_one_that_only_thinks_are_told(result, base, change, said):
    template = base / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace(*change, 1), encoding="utf-8")
    level, message = result("prompt")
    assert level == ("warn" if said else "ok")
    assert (said or "the same in training as at inference") in message


@pytest.mark.parametrize(("prompt", "level"), [("按类别写成JSON", "warn"), ("照抄文本，标出实体", "ok"), (None, "ok")])
def test_a_prompt_that_asks_for_json_where_the_target_is_another_is_told(result, prompt, level):
    found, message = result("prompt", target="inline", **({"system_prompt": prompt} if prompt else {}))
    assert found == level
    assert ("the system_prompt asks for JSON, but the target is inline" in message) == (level == "warn")


def test_prompts_are_compared_token_by_token(tokenizer):
    ids = tokenizer("三星手机")["input_ids"]
    assert compare_prompts([ids], [ids], ["三星手机"], tokenizer).level == "ok"
    for other in (ids[:-1], [*ids, 5], [ids[0], 5, *ids[2:]]):
        assert compare_prompts([ids], [other], ["三星手机"], tokenizer).level == "fail"


def test_rows_over_the_limit_are_counted_in_rows_and_entities(result):
    level, said = result("rows", max_length=50)
    assert level == "warn"
    assert re.match(r"\d+ of 96 rows, with \d+ of \d+ entities, are longer than max_length=50 tokens", said), said


def test_answers_over_max_new_tokens(result):
    level, said = result("answers", max_new_tokens=21)
    assert level == "warn"
    assert "are longer than max_new_tokens=21" in said


def test_a_prompt_without_room_for_its_answer(result):
    level, said = result("room", max_new_tokens=4080)
    assert level == "fail"
    assert "longer than 16 tokens" in said


def test_a_tokenizer_of_another_model(result, base):
    edit(base / "config.json", vocab_size=100)
    assert result("tokenizer")[0] == "fail"


# Data


def test_a_leaked_row_is_seen_through_punctuation_and_width(result, folder):
    leaked = example(EIGHT[1].text + "，训１！", ("game", "魔兽争霸"), id="leak")
    write_jsonl(folder / "data" / "dev.jsonl", [*numbered(EIGHT, "测"), leaked])
    level, said = result("leakage")
    assert level == "fail"
    assert "1 of 9 dev rows are in the training rows too: dev.jsonl:9 = train.jsonl:" in said


def test_an_unknown_label_is_a_line_and_the_checks_that_need_no_data_go_on(result):
    labels = "{address: '', company: '', gaem: ''}"
    assert result("data", labels=labels)[0] == "fail"
    assert 'did you mean "game"?' in result("data", labels=labels)[1]
    assert result("answers", labels=labels) == ("skip", "skipped: needs data, which failed above")
    assert result("processes", labels=labels)[0] == "ok"


def test_a_label_that_never_occurs(result):
    level, said = result("labels", labels=LABELS.replace("}", ", plant: ''}"))
    assert level == "warn"
    assert "never in the training rows: plant" in said


def test_data_without_empty_rows_are_result(result, folder):
    write_jsonl(folder / "data" / "train.jsonl", [row for row in numbered(EIGHT * 12, "训") if row.entities])
    assert result("no entity")[0] == "warn"


def test_a_model_that_cannot_be_had_fails_its_own_lines_alone(plan):
    findings = list(examine(plan(model_name_or_path="nobody/nothing")))
    assert sum("hf download nobody/nothing" in finding.message for finding in findings) == 1, "said once"
    levels = {finding.name: finding.level for finding in findings}
    sound = {"data", "labels", "leakage", "driver", "processes", "trackers", "hub"}
    assert {name for name, level in levels.items() if level not in ("fail", "skip")} == sound
    assert [name for name, level in levels.items() if level == "fail"] == ["model"]


# Steps and evaluations


def test_chance_chooses_among_checkpoints_where_few_rows_do(result, folder):
    assert result("steps")[0] == "ok"
    write_jsonl(folder / "data" / "dev.jsonl", numbered(EIGHT, "测"))
    level, said = result("steps")
    assert level == "warn"
    assert "with 8 dev rows it is chance" in said
    assert result("steps", eval_strategy="no", load_best_model_at_end="false", save_strategy="no")[0] == "ok"
    (folder / "data" / "dev.jsonl").unlink()
    assert "with 8 validation rows" in result("steps")[1]


@pytest.mark.parametrize(
    ("values", "steps", "enough"),
    [
        ({}, "24 steps", 5),  # 96 rows, 4 a step
        ({"gradient_accumulation_steps": 3}, "8 steps", 13),
        ({"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 20, "save_steps": 20}, "20 steps", 5),
        ({"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.1}, "20 steps", 5),
    ],
)
def test_early_stopping_that_waits_for_few_steps_is_warned_of(result, values, steps, enough):
    level, said = result("steps", early_stopping_patience=1, **values)
    assert level == "warn"
    assert f"waits for 1 evaluation, which is only {steps}: raise early_stopping_patience to {enough}" in said
    assert result("steps", early_stopping_patience=enough, **values)[0] == "ok"


def test_early_stopping_that_waits_to_the_end_is_patient(result):
    assert "early stopping" not in result("steps", early_stopping_patience=3, num_train_epochs=3)[1]
    assert "early stopping" in result("steps", early_stopping_patience=2, num_train_epochs=3)[1]


# Machine


def test_four_processes_on_a_machine_without_gpus(result):
    launch = Launch.of_file(ROOT / "accelerate_configs" / "ddp_4gpu.yaml")
    level, said = result("processes", launch, use_cpu="false")
    assert level == "fail"
    assert "4 processes on a machine with no GPU" in said


@pytest.mark.parametrize(
    ("launch", "values", "parts"),
    [
        (Launch(mixed_precision="bf16"), {}, {"graphs", "evaluation"}),
        (Launch(mixed_precision="bf16"), {"gradient_checkpointing": "true"}, {"evaluation"}),
        (Launch(mixed_precision="bf16"), {"attn_implementation": "eager"}, {"evaluation"}),
        (Launch(distributed_type="MULTI_GPU", num_processes=2, mixed_precision="bf16"), {}, {"evaluation"}),
        (Launch(), {"use_cpu": "true"}, set()),
    ],
    ids=["one GPU", "checkpointing", "eager", "two GPUs", "a CPU"],
)
def test_the_memory_of_a_gpu_includes_graphs_and_an_evaluation(result, launch, values, parts):
    pytest.importorskip("torch.nn.attention.varlen")
    _, said = result("memory", launch, **{"use_cpu": "false", **values})
    assert {part for part in ("graphs", "evaluation") if f"{part} " in said} == parts


def test_a_broken_accelerate_config_is_a_line(tmp_path, capsys, recipe):
    (tmp_path / "broken.yaml").write_text("num_process: 4\ndistributed_type: MULTI_GPU\n")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor", str(recipe()), "--accelerate_config", str(tmp_path / "broken.yaml")])
    assert stopped.value.code == 1
    assert "fail  processes" in capsys.readouterr().out


# What a training checks by itself


def test_a_training_logs_warnings_and_raises_all_failures(caplog):
    with caplog.at_level(logging.WARNING):
        raise_or_warn([ok("fine"), warn("odd", "mend it")])
        assert caplog.messages == ["odd; mend it."]
    with pytest.raises(FaultsError) as error:
        raise_or_warn([fail("wrong", "stop"), ok("fine"), fail("broken")])
    assert [(fault.what, fault.remedy) for fault in error.value.faults] == [("wrong", "stop"), ("broken", None)]


def test_a_training_refuses_by_itself_before_the_first_step(recipe, base, tiny):
    shutil.copy(tiny / "model.safetensors", base)
    template = base / "chat_template.jinja"
    template.write_text("{{ strftime_now('%f') }}" + template.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(FaultsError, match="another prompt"):
        train(load_recipe(recipe(max_steps=1)))
