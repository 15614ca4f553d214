"""The benchmarks run on the toy; what they say of speed is nobody's business here, what they say of equality is."""

import json
import subprocess
import sys

import pytest
from rows import ROOT


def run(script, folder, *options):
    command = [
        sys.executable,
        ROOT / "benchmarks" / script,
        "--model",
        "tiny",
        "--quick",
        "--json",
        folder / "out.json",
    ]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True, timeout=400, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out.json").read_text(encoding="utf-8")), done.stdout


@pytest.mark.slow
def test_train_speed(tmp_path):
    report, printed = run("train_speed.py", tmp_path, "--seconds", "1", "--sweep")
    plain = {"static", "dynamic", "trl-padded", "trl-padding-free", "trl-packed", "ours"}
    assert report["table"].keys() == plain
    ran = {name: values for name, values in report["table"].items() if "error" not in values}
    assert {"static", "dynamic", "ours"} <= ran.keys(), report
    for name in ("static", "dynamic"):
        assert ran[name]["first loss"] == pytest.approx(ran["ours"]["first loss"], rel=1e-5)
    assert all(values["rows/s"] > 0 and 0 < values["of matrix peak"] < 1 for values in ran.values())
    exact = report["exact"]
    assert max(exact["loss"], exact["gradient"]) <= 1e-5
    assert exact["gradient to float64"] <= 2 * exact["rows' gradient to float64"], "float32 rounds the rows as much"
    assert sum(claim["name"].startswith("rows one by one") for claim in report["claims"]) == 3
    assert "useful tok/s" in printed
    assert {(x, name) for x, name, _ in report["sweep"]["batch"]} == {
        (x, n) for x in (1, 4) for n in ("dynamic", "ours")
    }
    assert (tmp_path / "out.png").is_file()


@pytest.mark.slow
def test_extract_speed(tmp_path):
    ways = ("one", "batched", "free", "constrained", "constrained-one", "batched-guide", "free-guide")
    report, printed = run("extract_speed.py", tmp_path, "--limit", "12", "--sweep", "--ways", *ways)
    table = report["table"]
    assert not any("error" in values for values in table.values()), report
    for way in ("batched", "free", "free-guide"):
        assert table[way]["same"] == 1.0
    assert table["one"]["p50"] <= table["one"]["p95"]
    assert 0 < table["constrained"]["grammar"] < 1
    assert {"value", "bound", "holds", "name"} == report["claims"][0].keys()
    assert "sentences/s" in printed
    assert {(x, way) for x, way, _ in report["sweep"]["prefix"]} == {
        (x, w) for x in (32, 128) for w in ("batched", "free")
    }
    assert (tmp_path / "out.png").is_file()


@pytest.mark.slow
def test_growth(tmp_path):
    tasks = ("convert", "tokenize", "train", "predict", "evaluate", "report")
    report, printed = run("growth.py", tmp_path, "--tasks", *tasks)
    assert report["table"].keys() == set(tasks)
    for task, (small, large) in report["table"].items():
        assert "error" not in small | large, (task, small, large)
        assert large["rows"] == 10 * small["rows"]
    assert len(report["claims"]) == 2 * len(tasks)
    assert "rows/s" in printed


@pytest.mark.slow
def test_serve_load(tmp_path):
    pytest.importorskip("uvicorn")
    options = ("--limit", "16", "--clients", "1", "32", "--malformed", "60", "--soak", "2")
    report, printed = run("serve_load.py", tmp_path, *options)
    claims = {claim["name"]: claim for claim in report["claims"]}
    for name in ("answers of another text", "answers lost or refused", "malformed requests answered 5xx",
                 "malformed requests that hang"):  # fmt: skip
        assert claims[name]["holds"], report
    alone, together = report["load"]
    assert alone["windows a batch"] == 1
    assert together["windows a batch"] > 2
    assert report["restart"]["answers"]["asked again"]
    assert sum(report["malformed"].values()) == 60
    assert "requests/s" in printed
