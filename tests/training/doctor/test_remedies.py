"""Every failure is one line, its consequences are skipped, and what its remedy says mends it."""

import os
import re
import shutil
from dataclasses import replace

import pytest
from rows import EIGHT
from training.doctor.scenes import edit, numbered

from qwen_ner import cli
from qwen_ner.data.datasets import write_jsonl
from qwen_ner.training.doctor import machine
from qwen_ner.training.doctor.checks import check_leakage
from qwen_ner.training.doctor.examination import examine
from qwen_ner.training.launch import Launch


class Scene:
    """A recipe in the making: `values` are its keys, `remedy` what the doctor said."""

    def __init__(self, folder, base, tiny, patch):
        self.folder, self.base, self.tiny, self.patch = folder, base, tiny, patch
        self.values, self.launch, self.remedy = {}, None, ""

    def set(self, **values):
        self.values |= values

    def number(self, key):
        """The number that the remedy gives for a key."""
        return int(re.search(rf"{key} to ([\d,]+)", self.remedy)[1].replace(",", ""))

    def restore(self, name):
        shutil.copy(self.tiny / name, self.base / name)

    def append(self, name, text):
        path = self.base / name
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")

    def dev(self, rows):
        write_jsonl(self.folder / "data" / "dev.jsonl", numbered((EIGHT * 4)[:rows], "测"))

    def train(self, rows):
        """These rows, and no dev split."""
        write_jsonl(self.folder / "data" / "train.jsonl", numbered((EIGHT * 38)[:rows], "训"))
        (self.folder / "data" / "dev.jsonl").unlink(missing_ok=True)

    def leak(self, rows):
        write_jsonl(self.folder / "data" / "dev.jsonl", [*numbered(EIGHT, "测"), *numbered(EIGHT, "训")[:rows]])


def refuse_trackers(scene):
    scene.patch.setattr(machine, "find_spec", lambda name: None)
    scene.set(report_to="tensorboard")


CASES = {
    # check: (what the remedy says, how the fault is made, how the remedy is followed)
    "data": (
        'did you mean "address"?',
        lambda s: s.set(labels="{adress: '', company: ''}"),
        lambda s: s.set(labels="{address: '', company: ''}"),
    ),
    "leakage": ("delete them from one of the two", lambda s: s.leak(4), lambda s: s.leak(0)),
    "model": (
        "put model.safetensors beside config.json",
        lambda s: (s.base / "model.safetensors").unlink(),
        lambda s: s.restore("model.safetensors"),
    ),
    "data, metric": (
        "choose f1",
        lambda s: s.set(metric_for_best_model="f1_drug"),
        lambda s: s.set(metric_for_best_model="f1"),
    ),
    "model, torn": (
        "put the whole file there again",
        lambda s: os.truncate(s.base / "model.safetensors", 9),
        lambda s: s.restore("model.safetensors"),
    ),
    "model, config": (
        "put the config.json of these weights there again",
        lambda s: edit(s.base / "config.json", hidden_size="x"),
        lambda s: s.restore("config.json"),
    ),
    "model, activation": (
        "put the config.json of these weights there again",
        lambda s: edit(s.base / "config.json", hidden_act="nope"),
        lambda s: s.restore("config.json"),
    ),
    "tokenizer": (
        "use the tokenizer that belongs to the model",
        lambda s: edit(s.base / "config.json", vocab_size=100),
        lambda s: s.restore("config.json"),
    ),
    "rows": (
        "raise max_length",
        lambda s: s.set(max_length=5),
        lambda s: s.set(max_length=500),
    ),
    "rows, most": (
        "raise max_length",
        lambda s: s.set(max_length=40),
        lambda s: s.set(max_length=500),
    ),
    "prompt": (
        "save the tokenizer with a chat template that has no strftime_now",
        lambda s: s.append("chat_template.jinja", "{% if false %}{{ strftime_now('%d') }}{% endif %}"),
        lambda s: s.restore("chat_template.jinja"),
    ),
    "room": (
        "lower max_new_tokens to",
        lambda s: s.set(max_new_tokens=4080),
        lambda s: s.set(max_new_tokens=s.number("max_new_tokens")),
    ),
    "answers": (
        "raise max_new_tokens to",
        lambda s: s.set(max_new_tokens=4),
        lambda s: s.set(max_new_tokens=s.number("max_new_tokens")),
    ),
    "disk": (
        "choose another --output_dir",
        lambda s: s.set(output_dir=s.folder / "recipe.yaml" / "out"),
        lambda s: s.set(output_dir=s.folder / "out"),
    ),
    "processes": (
        "use accelerate_configs/cpu_2proc.yaml",
        lambda s: setattr(s, "launch", Launch(distributed_type="MULTI_CPU", num_processes=4)),
        lambda s: setattr(s, "launch", Launch(distributed_type="MULTI_GPU", num_processes=2, use_cpu=True)),
    ),
    "trackers": ("pip install tensorboard", refuse_trackers, lambda s: s.patch.undo()),
}


WARNINGS = {
    "epochs": (
        "raise num_train_epochs to",
        lambda s: s.set(num_train_epochs=5),
        lambda s: s.set(num_train_epochs=s.number("num_train_epochs")),
    ),
    "patience": (
        "raise early_stopping_patience to",
        lambda s: s.set(early_stopping_patience=1),
        lambda s: s.set(early_stopping_patience=s.number("early_stopping_patience")),
    ),
    "few rows as JSON": (
        "set target: inline",
        lambda s: edit(s.base / "config.json", intermediate_size=400_000),
        lambda s: s.set(target="inline", system_prompt="照抄文本，标出实体"),
    ),
    "validation": (
        "a dev split of 30 rows or more",
        lambda s: s.dev(29),
        lambda s: s.dev(30),
    ),
    "validation, limited": (
        "raise max_eval_samples to",
        lambda s: s.set(max_eval_samples=3),
        lambda s: s.set(max_eval_samples=s.number("max_eval_samples")),
    ),
    "validation, a tenth of too few": (
        "give the data set a dev split of 30 rows or more, or 300 rows of train, of which 10 % are held out",
        lambda s: (s.train(296), s.set(validation_rows=500)),
        lambda s: s.train(300),
    ),
    "validation, fewer than a tenth of too few": (
        "or 300 rows of train, of which 10 % are held out with validation_rows: 30",
        lambda s: s.train(296),
        lambda s: (s.train(300), s.set(validation_rows=30)),
    ),
    "validation, fewer than a tenth": (
        "the checkpoint: raise validation_rows to 30",
        lambda s: s.train(300),
        lambda s: s.set(validation_rows=s.number("validation_rows")),
    ),
    "validation, limited and fewer than a tenth": (
        "raise max_eval_samples to 30 and raise validation_rows to 30",
        lambda s: (s.train(300), s.set(max_eval_samples=4)),
        lambda s: s.set(validation_rows=30, max_eval_samples=30),
    ),
    "validation, of the sample": (
        "raise validation_rows to",
        lambda s: s.set(dataset="sample", validation_rows=3),
        lambda s: s.set(validation_rows=s.number("validation_rows")),
    ),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_a_warning_of_steps_has_a_remedy_that_mends_it(case, plan, folder, base, tiny, monkeypatch):
    said, make, follow = WARNINGS[case]
    scene = Scene(folder, base, tiny, monkeypatch)

    def steps():
        return next(found for found in examine(plan(**scene.values)) if found.name == "steps")

    assert steps().level == "ok"
    make(scene)
    assert steps().level == "warn"
    scene.remedy = steps().remedy
    assert said in scene.remedy
    follow(scene)
    assert steps().level == "ok"


@pytest.mark.parametrize("case", CASES)
def test_a_failure_is_one_line_and_its_remedy_mends_it(case, plan, folder, base, tiny, monkeypatch):
    said, make, follow = CASES[case]
    scene = Scene(folder, base, tiny, monkeypatch)
    make(scene)
    failed = [finding for finding in examine(plan(scene.launch, **scene.values)) if finding.level == "fail"]
    assert [finding.name for finding in failed] == [case.split(",")[0]]
    assert said in failed[0].message
    scene.remedy = failed[0].remedy
    follow(scene)
    assert [f.message for f in examine(plan(scene.launch, **scene.values)) if f.level == "fail"] == []


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
def test_one_missing_file_of_the_model_is_one_failure(missing, plan, base):
    (base / missing).unlink()
    found = list(examine(plan()))
    assert sum(finding.level == "fail" for finding in found) == 1, [str(finding) for finding in found]
    assert all("skipped: needs" in finding.message for finding in found if finding.level == "skip")


@pytest.mark.parametrize("values", [{"negatives": 0.1, "negatives_from": "nowhere.txt"}, {"dataset": "nowhere.jsonl"}])
def test_one_missing_file_of_the_data_is_one_failure(values, plan):
    found = list(examine(plan(**values)))
    assert [finding.name for finding in found if finding.level == "fail"] == ["data"]
    assert len({finding.message for finding in found if finding.level == "skip"}) == 1


def test_what_most_answers_or_rows_lose_is_a_failure_and_what_few_lose_a_warning(plan):
    def level(name, **values):
        return next(finding.level for finding in examine(plan(**values)) if finding.name == name)

    made = plan()
    lengths = sorted(len(ids) for rows in (made.rows, made.gold_rows) for ids in rows["answer_ids"])
    limits = lengths[len(lengths) // 2] - 1, lengths[-1] - 1, lengths[-1]
    assert [level("answers", max_new_tokens=n) for n in limits] == ["fail", "warn", "ok"]
    assert [level("rows", max_length=n) for n in (5, 40, 60, 500)] == ["fail", "fail", "warn", "ok"]


def test_repeats_within_the_training_data_are_no_failure(plan, folder):
    """Equal texts are held out together, but for CLUENER and the sample, whose validation rows are those of before."""
    rows = numbered(EIGHT * 4, "训")
    write_jsonl(folder / "data" / "train.jsonl", [*rows, *(replace(row, id=f"again {row.id}") for row in rows)])
    for dev in (True, False):
        found = [finding for finding in examine(plan()) if finding.name == "leakage"]
        assert [finding.level for finding in found] == ["ok", "ok"]
        assert ("validation rows" in found[0].found, "no test split" in found[1].found) == (not dev, True)
        (folder / "data" / "dev.jsonl").unlink(missing_ok=True)
    found = check_leakage("validation", plan(dataset="sample", validation_rows=1000))
    assert found.level == "warn"
    assert "qwen-ner stats" in found.remedy


def test_a_file_that_accelerate_launch_cannot_run_is_said(capsys, recipe):
    def said(path):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["doctor", str(path)])
        assert stopped.value.code == 0
        return f"start it with qwen-ner train {path}" in capsys.readouterr().out

    path = recipe()
    assert said(path)
    text = path.read_text(encoding="utf-8")
    line = 'if __name__ == "__main__": from qwen_ner.cli import main; main(); r"""\n'
    path.write_text(f'{line}{text}# """\n', encoding="utf-8")
    assert not said(path)
