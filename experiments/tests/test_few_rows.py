"""The benchmark of few rows runs on the toy, makes no run twice, and its rivals and levers do what it says of them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from f1_budget import packed
from few_rows import swapped
from few_rows_table import show, summary
from rows import EIGHT, ROOT

from qwen_ner.data.formats import jsonl
from qwen_ner.entities import Entity, Example


def few_rows(folder, *options, fails=False):
    command = [sys.executable, ROOT / "experiments/few_rows.py", "--quick", "--out", "runs.jsonl", "--work", "work"]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True, timeout=400, cwd=folder)
    assert (done.returncode != 0) == fails, done.stderr
    if fails:
        return done.stderr
    lines = (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], done


def test_all_systems_are_trained_on_the_same_rows_and_none_is_made_twice(tmp_path):
    pytest.importorskip("pycrfsuite")
    runs, done = few_rows(tmp_path)
    systems = ["lookup", "crf", "one-pass", "few-rows"]
    assert [(run["rows"], run["system"]) for run in runs] == [(size, name) for size in (8, 20) for name in systems]
    assert all((run["split"], run["scored"], run["seed"]) == ("held-out", 40, 42) for run in runs)
    assert [run["epochs"] for run in runs if "epochs" in run] == [1, 10, 1, 10]
    by_size = [list(jsonl.read(tmp_path / f"work/few-rows/{size}-42/train.jsonl")) for size in (8, 20)]
    texts = [[row.text for row in rows] for rows in by_size]
    assert texts[0] == texts[1][:8]
    assert [row.text for row in jsonl.read(tmp_path / "work/one-pass/20-42/train.jsonl")] == texts[1]
    report = json.loads((tmp_path / "runs.json").read_text(encoding="utf-8"))
    assert [(line["rows"], line["system"]) for line in report["table"]] == [(r["rows"], r["system"]) for r in runs]
    assert "command" not in report["run"], "it may name folders of a machine"
    assert "held-out, 20, few-rows" in done.stdout

    trained = tmp_path / "work/few-rows/20-42/trained.json"
    before = trained.stat().st_mtime_ns
    again, _ = few_rows(tmp_path, "--score", "dev", "--systems", "crf", "few-rows")
    assert again[:8] == runs
    assert [(run["split"], run["system"], run["rows"], run["training"]) for run in again[8:]] == [
        ("dev", run["system"], run["rows"], run["training"]) for run in runs if run["system"] in ("crf", "few-rows")
    ], "dev is read by what is there"
    assert trained.stat().st_mtime_ns == before

    lever = ["--systems", "few-rows", "--name", "more", "--swap", "3", "--lora_dropout", "0.1"]
    more, done = few_rows(tmp_path, *lever)
    assert [run["system"] for run in more[12:]] == ["few-rows+more"] * 2
    rows = list(jsonl.read(tmp_path / "work/few-rows+more/8-42/train.jsonl"))
    assert [row.text for row in rows[:8]] == texts[0]
    assert len(rows) * more[12]["epochs"] == pytest.approx(10 * 8), "as many rows are shown"
    assert more[12]["settings"] == {"recipe": "lora", "swap": 3, "overrides": ["--lora_dropout", "0.1"]}
    assert "other settings" in few_rows(tmp_path, *lever[:4], "--lora_dropout", "0.2", fails=True)


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (["--systems", "few-rows", "--lora_dropout", "0.1"], "--name"),
        (["--systems", "lookup", "few-rows", "--name", "dropout", "--lora_dropout", "0.1"], "--systems"),
        (["--systems", "few-rows", "--name", "typo", "--lora_dropuot", "0.1"], "lora_dropuot"),
    ],
)
def test_runs_that_could_not_be_told_apart_are_refused(tmp_path, options, place):
    error = few_rows(tmp_path, *options, fails=True)
    assert place in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs.jsonl").exists()


def test_entities_are_replaced_by_others_of_their_label():
    copies = swapped(EIGHT, 2, seed=0)
    surfaces = {pair for row in EIGHT for pair in row.surfaces}
    rows = [row for row in EIGHT if row.entities]
    assert len(copies) == 2 * len(rows)
    for made, row in zip(copies, rows * 2, strict=True):
        assert [e.label for e in made.entities] == [e.label for e in row.entities]
        assert {*made.surfaces} <= surfaces
        assert around(made) == around(row)
    assert {made.text for made in copies} - {row.text for row in EIGHT}
    nested = Example("0", "北京大学", (Entity("address", "北京", 0, 2), Entity("organization", "北京大学", 0, 4)))
    assert swapped([nested, Example("1", "无")], 3, seed=0) == []


def around(row):
    """What is left of the text without its entities."""
    ends = [0, *(entity.end for entity in row.entities)]
    starts = [*(entity.start for entity in row.entities), len(row.text)]
    return [row.text[end:start] for end, start in zip(ends, starts, strict=True)]


def test_a_crf_finds_what_only_its_context_tells():
    crf = pytest.importorskip("crf")
    names = ["甲", "乙", "丙", "丁", "戊", "己"]
    rows = [Example(str(n), f"见{name}说", (Entity("name", name, 1, 2),)) for n, name in enumerate(names)]
    rows += [Example(name, f"买{name}吃") for name in names]
    found = crf.Crf(rows).train(0.0, 0.01)(["见庚说", "买庚吃", ""])
    assert [decoded.surfaces for decoded in found] == [(("name", "庚"),), (), ()]
    finder, penalties = crf.best(rows, lambda finder: float(len(finder(["见庚说"])[0].entities)), quick=False)
    assert penalties.keys() == {"c1", "c2"}
    assert finder(["见庚说"])[0].entities == (Entity("name", "庚", 1, 2),)


def test_the_crf_learns_the_longest_of_overlapping_entities():
    crf = pytest.importorskip("crf")
    text = "北京大学在北京"
    spans = (Entity("address", "北京", 0, 2), Entity("organization", "北京大学", 0, 4), Entity("address", "北京", 5, 7))
    assert sorted(crf.flat(spans)) == [("address", 5, 7), ("organization", 0, 4)]
    assert len(crf.features(text)) == len(text)
    assert len({len(here) for here in crf.features(text)}) == 1, "the edges have as many features"


def run(system, right, rows=50, split="held-out", seed=42):
    """Of 100 rows with one entity each, `right` are found and the others missed."""
    counts = np.zeros((100, 6, 3))
    counts[:, 0] = counts[:, 2] = [(1, 0, 0) if n < right else (0, 0, 1) for n in range(100)]
    seconds = {"wall": 1.0 + seed, "cpu": 2.0}
    return {"system": system, "rows": rows, "seed": seed, "split": split, "settings": {}, "scored": 100,
            "labels": ["a"], "counts": packed(counts), "training": seconds, "reading": seconds,
            "machine": {"processor": "abacus", "gpu": None}, "run": {"date": "2026-11-27", "commit": "abc"}}  # fmt: skip


def test_the_summary_compares_runs_of_the_same_rows():
    runs = [run("few-rows", 60), run("few-rows", 80, seed=43), run("crf", 40), run("few-rows+dropout", 90, seed=43),
            run("crf", 90, rows=100), run("few-rows", 50, split="dev"), run("crf", 20, split="dev")]  # fmt: skip
    report = summary(runs)
    found = {(line["split"], line["rows"], line["system"]): line for line in report["table"]}
    assert len(found) == 6

    def f1(right):
        return 100 * 2 * right / (right + 100)

    ours = found["held-out", 50, "few-rows"]
    assert ours["f1"]["value"] == pytest.approx((f1(60) + f1(80)) / 2, abs=1e-3)
    assert ours["f1"]["low"] < ours["f1"]["value"] < ours["f1"]["high"]
    assert ours["seeds"] == {"42": round(f1(60), 2), "43": round(f1(80), 2)}
    assert ours["crf"]["value"] == pytest.approx(f1(60) - f1(40), abs=1e-3), "over the seeds of both"
    assert ours["plain"] is None
    assert ours["training"] == {"wall": 43.5, "cpu": 2.0}
    assert found["held-out", 50, "few-rows+dropout"]["plain"]["value"] == pytest.approx(f1(90) - f1(80), abs=1e-3)
    assert found["held-out", 100, "crf"]["crf"] is None
    assert report["machine"]["processor"] == "abacus"
    (claimed,) = report["claims"]
    assert (claimed["bound"], claimed["holds"]) == (0, True)
    assert len(show(report).splitlines()) == 7
