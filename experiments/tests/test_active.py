"""The experiment on chosen rows runs on the toy, goes on where it was stopped, and compares what it says it does."""

import json
import shutil
import subprocess
import sys

from rows import ROOT

from qwen_ner.data.formats import jsonl

COMMAND = [sys.executable, str(ROOT / "experiments/active.py"), "--quick", "--work", "work", "--json", "active.json"]


def active(folder):
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=400, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "active.json").read_text(encoding="utf-8")), done


def test_chosen_rows_are_compared_with_as_many_random_ones(tmp_path):
    found, done = active(tmp_path)
    sizes = {"start 8": 8, "random 20": 20, "chosen 12": 12, "chosen 16": 16, "chosen 20": 20}
    texts = {}
    for line in found["table"]:
        texts[line["rows"]] = [row.text for row in jsonl.read(tmp_path / "work" / line["folder"] / "train.jsonl")]
    assert {name: len({*rows}) for name, rows in texts.items()} == sizes
    for name in [*sizes][1:]:
        assert {*texts["start 8"]} < {*texts[name]}
    assert {*texts["chosen 12"]} < {*texts["chosen 16"]} < {*texts["chosen 20"]}
    assert texts["chosen 20"] != texts["random 20"]
    by_name = {line["rows"]: line["f1"] for line in found["table"]}
    (gain,) = found["gains"]
    assert gain["f1"] == by_name["chosen 20"] - by_name["random 20"]
    assert gain["low"] <= gain["f1"] <= gain["high"]
    assert "chosen 20 - random 20" in done.stdout

    shutil.rmtree(tmp_path / "work" / "42" / "chosen-3")
    other = {**found, "table": [{**line, "seed": 7} for line in found["table"]], "gains": [{**gain, "seed": 7}]}
    (tmp_path / "active.json").write_text(json.dumps(other), encoding="utf-8")
    again, done = active(tmp_path)
    assert [line.split("/")[-1] for line in done.stderr.splitlines() if line.endswith(" rows")] == ["chosen-3: 20 rows"]
    assert again["table"] == other["table"] + found["table"], "what is made again is the same; other seeds are kept"
    assert again["gains"] == other["gains"] + found["gains"]

    alien = json.dumps({**other, "protocol": {**found["protocol"], "pool": 70}})
    (tmp_path / "active.json").write_text(alien, encoding="utf-8")
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert done.returncode == 1
    assert "'pool': 70" in done.stderr
    assert (tmp_path / "active.json").read_text(encoding="utf-8") == alien
