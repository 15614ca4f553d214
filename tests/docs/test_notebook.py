"""The notebook runs from top to bottom, its stored outputs are those of its cells, and its twin's are the same."""

import importlib.util
import json
import shlex
import sys

import pytest
from rows import ROOT
from warm_python import warm_python


def load_tool():
    spec = importlib.util.spec_from_file_location("notebook_tool", ROOT / "tools" / "notebook.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


TOOL = load_tool()
NOTEBOOK = json.loads(TOOL.NOTEBOOK.read_text(encoding="utf-8"))


def fork(line):
    """`qwen-ner …` as a fork of a Python that has its imports done."""
    program, *words = shlex.split(line)
    assert program == "qwen-ner"
    done = warm_python.run([sys.executable, "-m", "qwen_ner", *words])
    assert not done.returncode, done.stderr
    return done.stdout + done.stderr


def outputs_of(notebook):
    return [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """With ten steps for its ten epochs; cells before the training give what is stored."""
    monkeypatch.chdir(tmp_path)
    text = json.dumps(NOTEBOOK)
    shorter = text.replace('\\"num_train_epochs\\": 10,', '\\"max_steps\\": 10, \\"eval_strategy\\": \\"no\\", '
                           '\\"save_strategy\\": \\"no\\", \\"load_best_model_at_end\\": False,')  # fmt: skip
    assert shorter != text
    done = TOOL.run(json.loads(shorter), fork)
    assert (tmp_path / "outputs" / "notebook" / "report.html").is_file()
    assert len(outputs_of(done)) == len(outputs_of(NOTEBOOK))
    for new, stored in zip(outputs_of(done), outputs_of(NOTEBOOK), strict=True):
        assert [output["output_type"] for output in new] == [output["output_type"] for output in stored]
    assert outputs_of(done)[2:4] == outputs_of(NOTEBOOK)[2:4]


def test_it_is_stored_as_it_ran():
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert "/tmp" not in json.dumps(NOTEBOOK)


def test_the_chinese_one_has_the_same_code_and_outputs():
    twin = json.loads(TOOL.TWIN.read_text(encoding="utf-8"))
    assert [cell["cell_type"] for cell in twin["cells"]] == [cell["cell_type"] for cell in NOTEBOOK["cells"]]
    for cell, other in zip(twin["cells"], NOTEBOOK["cells"], strict=True):
        if cell["cell_type"] == "code":
            assert code_of(cell) == code_of(other)
            assert cell["outputs"] == other["outputs"]


def code_of(cell):
    return [line.partition("  # ")[0] for line in cell["source"]]


def cell(source):
    return {"cell_type": "code", "metadata": {}, "source": source.splitlines(keepends=True)}


def test_a_cell_is_run_as_jupyter_runs_it():
    ran = TOOL.run(
        {"cells": [cell("x = 2\nif x:\n    !echo {x}\n"), cell("print(1)\nx + 1")]}, lambda line: f"${line}\n"
    )
    first, second = ran["cells"]
    assert first["outputs"] == [{"output_type": "stream", "name": "stdout", "text": ["$echo 2\n"]}]
    assert second["outputs"][0]["text"] == ["1\n"]
    assert second["outputs"][1]["data"] == {"text/plain": ["3"]}
    assert second["execution_count"] == 2


def test_a_cell_that_raises_ends_the_run():
    with pytest.raises(ZeroDivisionError):
        TOOL.run({"cells": [cell("1 / 0")]}, print)
