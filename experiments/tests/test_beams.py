"""What is told of beams, worked out by hand, and the whole on the toy."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from beams import Read, counts, decide, f1, share
from rows import ROOT

A, B, C = ("address", "北京"), ("company", "三星"), ("name", "叶老桂")


def read(gold, *answers, own=()):
    line = {
        "gold": gold,
        "answers": [{"logprob": math.log(p), "surfaces": surfaces} for p, surfaces in answers],
        "greedy": [[*pair, math.log(p)] for pair, p in own],
    }
    return Read.of(json.loads(json.dumps(line)))


def test_a_surface_has_the_probability_of_the_answers_that_write_it():
    row = read([A, B], (0.5, [A]), (0.25, [A, B]), (0.125, [C]))
    assert row.summed == pytest.approx({A: 0.75, B: 0.25, C: 0.125})
    assert row.mass == pytest.approx(0.875)
    assert row.greedy == {A}


def test_the_oracle_takes_the_best_of_the_first_answers():
    row = read([A, B], (0.5, [C]), (0.3, [A]), (0.1, [A, B]))
    assert [row.best_of(width) for width in (1, 2, 3, 8)] == [{C}, {A}, {A, B}, {A, B}]
    assert read([], (0.5, [A]), (0.2, [])).best_of(2) == frozenset()
    assert f1(counts(frozenset([A, C]), frozenset([A, B]))) == 2 / 4


def test_a_threshold_is_fitted_on_the_other_half():
    rows = [read([A], (0.6, [A]), (0.2, [B])), read([A], (0.3, [A]), (0.2, [B]))] * 2
    decided, thresholds = decide(rows)
    assert thresholds == pytest.approx([0.4, 0.25])  # half way to the next score
    assert decided == [{A}, frozenset()] * 2


def test_the_share_of_what_is_missed_in_the_least_sure_fifth():
    missed, sure = np.array([3, 1, 0, 0, 2] * 2), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9])
    assert share(missed, sure, np.arange(10)) == 4 / 12
    assert share(missed, -sure, np.arange(10)) == 4 / 12


def test_it_reads_the_toy_and_goes_on_where_it_was(tmp_path):
    command = [sys.executable, ROOT / "experiments/beams.py", "--quick", "--out", "rows.jsonl", "--json", "report.json"]

    def run():
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

    first, lines = run(), (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == first["rows"] == 12
    assert all(sum(math.exp(a["logprob"]) for a in json.loads(line)["answers"]) <= 1 + 1e-5 for line in lines)
    known = {line["what"]: line["value"] for line in first["table"]}
    assert known["oracle f1 of 8"] >= known["oracle f1 of 1"]
    assert len(first["claims"]) == 3
    (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    assert run()["table"] == first["table"], "what was read is not read again"
