"""Branches of a training on the toy: what they leave out of the trunk they never compute again."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from epochs import epoch_of, summary
from f1_budget import packed
from rows import ROOT
from safetensors.torch import load_file


def epochs(folder, *options, code=0):
    command = [sys.executable, ROOT / "experiments/epochs.py", "--quick", "--out", "runs.jsonl", "--work", "work"]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True, timeout=400, cwd=folder)
    assert done.returncode == code, done.stderr
    lines = (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines() if not code else []
    return [json.loads(line) for line in lines], done


def states(folder):
    """The Trainer's state in the last checkpoint of each folder, by its name."""
    found = {}
    for path in sorted(folder.rglob("trainer_state.json")):
        found[path.parent.parent.name if path.parent.name.startswith("checkpoint-") else path.parent.name] = json.loads(
            path.read_text()
        )
    return found


def test_branches_leave_the_trunk_and_bring_the_rate_down(tmp_path):
    runs, done = epochs(tmp_path, "--branches", "2+smoothed", "1", "2")
    assert [(run["branch"], run["epochs"], run["steps"], run["rows"]) for run in runs] == [
        ("1", 1, 5, 40), ("2+smoothed", 2, 9, 40), ("2", 2, 9, 40)
    ]  # fmt: skip
    (work,) = [path for path in (tmp_path / "work").iterdir() if path.name.startswith("ours")]
    state = states(work)
    assert {name: one["global_step"] for name, one in state.items()} == {
        "trunk": 8, "epoch-1": 4, "epoch-2": 8, "branch-1": 5, "branch-2": 9, "branch-2+smoothed": 9
    }  # fmt: skip
    ends = {name: load_file(work / name / f"checkpoint-{step}/adapter_model.safetensors")
            for name, step in (("branch-2", 9), ("branch-2+smoothed", 9), ("trunk", 8))}  # fmt: skip
    apart = {
        name: max(float((ends[name][key] - ends["trunk"][key]).abs().max()) for key in ends[name]) for name in ends
    }
    assert apart["branch-2"] > 0 < apart["branch-2+smoothed"]
    assert any((ends["branch-2"][key] != ends["branch-2+smoothed"][key]).any() for key in ends["branch-2"])
    again, _ = epochs(tmp_path, "--branches", "1", "2")
    assert again == runs, "what was run is not run again"
    assert "held out, 2+smoothed, ours+dropout" in done.stdout
    ends = {path: path.stat().st_mtime_ns for path in work.rglob("adapter_model.safetensors")}
    finalist, done = epochs(tmp_path, "--branches", "2", "--dev")
    assert [(run["branch"], run["split"]) for run in finalist[len(runs) :]] == [("2", "dev")]
    assert {path: path.stat().st_mtime_ns for path in work.rglob("adapter_model.safetensors")} == ends, (
        "it is only read"
    )
    assert "dev, 2, ours+dropout" in done.stdout


def test_an_ended_trunk_and_branch_are_what_one_training_gives(tmp_path):
    """Asked for one epoch and then for two, and the other way round: the same weights."""
    epochs(tmp_path, "--branches", "1")
    epochs(tmp_path, "--branches", "2")
    (tmp_path / "other").mkdir()
    epochs(tmp_path / "other", "--branches", "2")
    (branch,) = tmp_path.glob("other/**/branch-2")
    shutil.rmtree(branch)
    branch.with_name("branch-1").mkdir()  # killed before it was copied
    epochs(tmp_path / "other", "--branches", "1")
    epochs(tmp_path / "other", "--branches", "2", "--out", "again.jsonl")
    for last in ("branch-1/checkpoint-5", "branch-2/checkpoint-9"):
        one, other = (
            load_file(next(folder.glob(f"work/ours*/{last}")) / "adapter_model.safetensors")
            for folder in (tmp_path, tmp_path / "other")
        )
        assert all((one[key] == other[key]).all() for key in one)


@pytest.mark.parametrize("branch", ["0", "smoothed", "1.5", ""])
def test_a_branch_begins_with_an_epoch(tmp_path, branch):
    with pytest.raises(SystemExit, match="begin with the number of an epoch"):
        epoch_of(branch)


def test_an_unknown_lever_is_told_before_anything_is_trained(tmp_path):
    _, done = epochs(tmp_path, "--branches", "1", "1+smooth", code=1)
    assert "smooth: no such lever" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_branch_is_told_against_the_one_before_and_a_lever_against_none():
    def run(branch, right):
        counts = np.zeros((100, 6, 3))
        counts[:, 0] = counts[:, 2] = [(1, 0, 0) if n < right else (0, 0, 1) for n in range(100)]
        machine = dict.fromkeys(("processor", "cores", "gpu", "python", "torch", "transformers", "accelerate", "peft"))
        return {
            "setting": "ours",
            "branch": branch,
            "seed": 1,
            "rows": 100,
            "labels": ["a"],
            "counts": packed(counts),
            **machine,
        }

    lines = {line["branch"]: line for line in summary([run("3+smoothed", 100), run("3", 50), run("2", 100)])["table"]}
    assert {name: line["against"] and round(line["against"]["value"], 2) for name, line in lines.items()} == {
        "2": None, "3": -33.33, "3+smoothed": 33.33
    }  # fmt: skip
