"""Laws of cross-fitting, on trainings of the toy: nobody predicts what it has seen, and a kill changes nothing."""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import EIGHT, ROOT
from warm_python import warm_python

from qwen_ner import cli
from qwen_ner.data.analysis.corrections import propose
from qwen_ner.data.analysis.disagreement import predictions_by_text
from qwen_ner.data.analysis.duplicates import groups_of_alike, near_duplicates
from qwen_ner.data.datasets import write_jsonl
from qwen_ner.data.formats import jsonl
from qwen_ner.entities import Example, NerError
from qwen_ner.inference.annotated import prediction_lines
from qwen_ner.inference.extractor import Extractor
from qwen_ner.sweep import folds
from qwen_ner.sweep.folds import assign, cross_fit
from qwen_ner.training.preparation import read_splits


@given(
    st.lists(st.text("甲乙丙，", min_size=1, max_size=6), min_size=2, max_size=20), st.integers(2, 4), st.integers(0, 3)
)
def test_each_row_is_in_one_fold_and_what_is_alike_in_the_same(texts, folds, seed):
    groups = groups_of_alike(texts)
    if folds > len(groups):
        with pytest.raises(NerError) as error:
            assign(texts, folds, seed)
        assert (error.value.place, error.value.value) == ("--folds", folds)
        return
    parts = assign(texts, folds, seed)
    assert sorted(row for part in parts for row in part) == list(range(len(texts)))
    assert all(len({n for n, part in enumerate(parts) for row in group if row in part}) == 1 for group in groups)
    assert max(map(len, parts)) - min(map(len, parts)) <= max(map(len, groups))
    assert all(part == sorted(part) for part in parts)
    assert parts == assign(texts, folds, seed)


@given(
    st.lists(st.tuples(st.text("甲乙丙丁戊", min_size=4, max_size=6), st.sampled_from(["", "a", "b", "c"])), min_size=8)
)
def test_rows_of_one_group_are_in_one_fold(rows):
    texts, names = zip(*rows, strict=True)
    if len(groups_of_alike(texts, names=names)) < 2:
        return
    parts = assign(texts, 2, 0, names)
    assert not {names[row] for row in parts[0]} & {names[row] for row in parts[1]} - {""}
    assert all({*group} <= {*parts[0]} or {*group} <= {*parts[1]} for group in groups_of_alike(texts))


def test_fewer_than_two_folds_are_refused():
    with pytest.raises(NerError) as error:
        assign(["一", "二", "三"], 1, 0)
    assert error.value.remedy == "choose from 2 to 3, or add rows with other texts"
    with pytest.raises(NerError) as error:
        assign(["一", "一。", "一"], 2, 0)
    assert error.value.remedy == "add rows with other texts"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """24 rows: each of eight in three versions, some of which differ in punctuation alone."""
    rows = []
    for n, gold in enumerate(EIGHT):
        rows.append(Example(f"{n}", gold.text, gold.entities))
        rows.append(Example(f"{n}b", gold.text + "！", gold.entities))
        rows.append(Example(f"{n}c", gold.text + "\u2028另外没有别的了", gold.entities))
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def recipe(rows, tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "r.yaml"
    path.write_text(
        f"model_name_or_path: {tiny}\ndataset: {rows}\nsystem_prompt: 找出实体\nvalidation_rows: 4\nuse_cpu: true\n"
        "learning_rate: 1e-2\nmax_steps: 2\nmax_new_tokens: 64\nlogging_steps: 2\nreport_to: none\nseed: 3\n"
        "eval_strategy: steps\neval_steps: 2\nsave_strategy: steps\nsave_steps: 2\npush_to_hub: true\n"
        "hub_model_id: you/ner\n",
        encoding="utf-8",
    )
    return path


def command(recipe, output, *more):
    return [sys.executable, "-m", "qwen_ner", "folds", recipe, "--folds", "2", "--output_dir", output, *more]


@pytest.fixture(scope="module")
def done(recipe, make_once):
    def make(output):
        said = warm_python.run(command(recipe, output), check=True, timeout=600).stdout.splitlines()
        assert f"{output / 'folds.jsonl'}: 24 rows, each predicted by the one of 2 models that has not seen it" in said
        assert not [line for line in said if "for a final test" in line], "the data set of a fold is not the user's"

    return make_once("folds", make)


def test_each_row_is_predicted_by_one_model_that_has_not_seen_it_or_one_like_it(done, rows):
    every = list(jsonl.read(rows))
    seen = {n: list(jsonl.read(done / f"fold-{n}" / "train.jsonl")) for n in (1, 2)}
    held = {n: list(jsonl.read(done / f"fold-{n}" / "held_out.jsonl")) for n in (1, 2)}
    for n in (1, 2):
        assert sorted(e.id for e in [*seen[n], *held[n]]) == sorted(e.id for e in every)
        assert not [d for d in near_duplicates({"seen": seen[n], "held": held[n]}) if d.splits == ("seen", "held")]
        assert (done / f"fold-{n}" / "model" / "ner_config.json").exists()
    assert sorted(e.id for n in (1, 2) for e in held[n]) == sorted(e.id for e in every)
    lines = [json.loads(line) for line in (done / "folds.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [(line["id"], line["text"]) for line in lines] == [(e.id, e.text) for e in every]
    for n in (1, 2):
        predicted = (done / f"fold-{n}" / "predictions.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        of_fold = {e.id for e in held[n]}
        assert [json.loads(line) for line in predicted] == [line for line in lines if line["id"] in of_fold]


def test_audit_reads_what_is_written(done, rows):
    """Each annotated surface is either written by the model, or it was asked for it, but in texts longer than it knows."""
    every = list(jsonl.read(rows))
    predictions = dict(zip([e.id for e in every], predictions_by_text(done / "folds.jsonl", every), strict=True))
    unasked = set()
    for n in (1, 2):
        longest = max(len(e.text) for e in jsonl.read(done / f"fold-{n}" / "train.jsonl"))
        for gold in jsonl.read(done / f"fold-{n}" / "held_out.jsonl"):
            found = predictions[gold.id]
            if missing := set(gold.surfaces) - {(e.label, e.text) for e in found.entities}:
                assert found.annotated is None if len(gold.text) > longest else found.annotated.keys() == missing
            unasked |= {gold.id} if found.annotated is None else set()
    assert len(unasked) < len(every) / 4
    propose(every, [[*predictions.values()]])


def test_a_fold_that_is_finished_is_kept_and_a_kill_changes_nothing(recipe, done, tmp_path):
    process = warm_python.start(command(recipe, tmp_path))
    first = tmp_path / "fold-1"
    while not (first / "predictions.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "folds.jsonl").exists()
    before = {path: path.stat().st_mtime_ns for path in sorted(first.rglob("*")) if path.is_file()}
    warm_python.run(command(recipe, tmp_path), check=True, timeout=600)
    assert {path: path.stat().st_mtime_ns for path in sorted(first.rglob("*")) if path.is_file()} == before
    assert (tmp_path / "folds.jsonl").read_bytes() == (done / "folds.jsonl").read_bytes()


def test_folds_of_other_rows_are_not_mixed(recipe, done):
    with pytest.raises(NerError) as error:
        cross_fit(recipe, ["--output_dir", str(done)], 3)
    assert error.value.place == done / "fold-1" / "held_out.jsonl"
    assert "another --output_dir" in error.value.remedy


def test_folds_of_another_recipe_are_not_mixed_but_of_another_logging(recipe, done):
    with pytest.raises(NerError, match=r"differs in max_steps, seed\b") as error:
        cross_fit(recipe, ["--output_dir", str(done), "--max_steps", "3", "--seed", "4"], 2)
    assert error.value.place == done / "recipe.json"
    before = (done / "folds.jsonl").stat().st_mtime_ns
    other = recipe.with_name("other.yaml")
    other.write_text("".join(reversed(recipe.read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8")
    cross_fit(other, ["--output_dir", str(done), "--logging_steps", "1", "--per_device_eval_batch_size", "3"], 2)
    assert (done / "folds.jsonl").stat().st_mtime_ns > before


def test_folds_of_a_recipe_that_is_not_known_are_not_mixed(recipe, tmp_path):
    (tmp_path / "fold-1").mkdir()
    with pytest.raises(NerError, match="not known") as error:
        cross_fit(recipe, ["--output_dir", str(tmp_path)], 2)
    assert error.value.place == tmp_path


def test_no_fold_is_taught_that_a_row_that_it_holds_out_has_no_entities(recipe, rows, tmp_path, monkeypatch):
    every = list(jsonl.read(rows))
    own = {row.text for row in every}
    (tmp_path / "calm.txt").write_text(
        "".join(f"{e.text}？\n那{e.text}\n" for e in every) + "快递太慢了\n明天再说吧\n", encoding="utf-8"
    )
    taught = []

    def look(recipe, **_):
        taught.append([row.text for row in read_splits(recipe.data).train if row.text not in own])
        raise KeyboardInterrupt

    monkeypatch.setattr(folds, "train", look)
    given = {"negatives": 9, "negatives_from": tmp_path / "calm.txt", "output_dir": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        cross_fit(recipe, [f"--{key}={value}" for key, value in given.items()], 2)
    assert taught == [["快递太慢了", "明天再说吧"]]
    (tmp_path / "calm.txt").write_text("".join(f"{e.text}\n" for e in every), encoding="utf-8")
    with pytest.raises(NerError) as error:
        cross_fit(recipe, [f"--{key}={value}" for key, value in (given | {"output_dir": tmp_path / "two"}).items()], 2)
    assert error.value.place == "negatives_from"
    assert error.value.value == str(tmp_path / "calm.txt")


@pytest.mark.slow
def test_several_processes_share_trainings_and_predictions(recipe, done, tmp_path):
    config = ROOT / "accelerate_configs" / "cpu_2proc.yaml"
    ran = warm_python.launch(config, command(recipe, tmp_path)[1:])
    assert ran.returncode == 0, ran.stderr
    ids = [json.loads(line)["id"] for line in (tmp_path / "folds.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert ids == [
        json.loads(line)["id"] for line in (done / "folds.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ]


@pytest.mark.slow
def test_every_process_waits_for_the_calibration_of_the_model(trained, recipe, tmp_path):
    """What two processes write of a fold is what the model in its folder says, whose confidences are calibrated last."""
    rows = [replace(gold, id=f"{n}", text=f"{gold.text}{'甲乙丙丁'[n % 4]}{n}") for n, gold in enumerate(EIGHT * 26)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    config = ROOT / "accelerate_configs" / "cpu_2proc.yaml"
    given = {"dataset": tmp_path / "train.jsonl", "model_name_or_path": trained["full"], "validation_rows": 10}
    given |= {"learning_rate": 1e-6, "max_steps": 1, "eval_strategy": "no", "load_best_model_at_end": False}
    ran = warm_python.launch(
        config, command(recipe, tmp_path, *(f"--{key}={value}" for key, value in given.items()))[1:]
    )
    assert ran.returncode == 0, ran.stderr
    for fold in (tmp_path / "fold-1", tmp_path / "fold-2"):
        extractor = Extractor.from_pretrained(fold / "model", device="cpu")
        assert extractor.calibration.thresholds
        one = [line.get("entities") for line in prediction_lines(extractor, list(jsonl.read(fold / "held_out.jsonl")))]
        two = [json.loads(line) for line in (fold / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [line.get("entities") for line in two] == one


def test_bad_input_by_the_command_line(recipe, tmp_path, capsys):
    for more, said in (
        (["--folds", "0"], 2),
        (["--folds", "900"], "--folds"),
        (["--learnin_rate", "1"], "learning_rate"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["folds", str(recipe), "--output_dir", str(tmp_path), *more])
        assert stopped.value.code == said or said in str(stopped.value.code)
