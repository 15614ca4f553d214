"""`qwen-ner select` as a user types it, and the way of what it writes back into a data set."""

import io
import json
import logging
import sys
from dataclasses import replace

import pytest
from rows import EIGHT
from test_cli import in_process

from qwen_ner.data.datasets import write_jsonl
from qwen_ner.data.formats import jsonl

TEXTS = [gold.text for gold in EIGHT]


@pytest.fixture
def home(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in [*TEXTS, TEXTS[0], "！"]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_tasks_are_written_for_label_studio_least_certain_first(home, trained, capsys, caplog):
    code, out, _ = in_process(capsys, "select", trained["full"], "texts.txt", "--count", "3", "--output", "tasks.json")
    assert (code, out) == (0, "")
    tasks = json.loads((home / "tasks.json").read_text(encoding="utf-8"))
    assert len(tasks) == 3
    assert {task["data"]["text"] for task in tasks} <= {*TEXTS, "！"}
    lines = (home / "texts.txt").read_text(encoding="utf-8").split("\n")
    for task in tasks:
        file, _, line = task["data"]["id"].partition(":")
        assert (file, lines[int(line) - 1]) == ("texts.txt", task["data"]["text"])
        assert task["predictions"][0]["model_version"] == str(trained["full"])
    assert [task["predictions"][0]["score"] for task in tasks] == sorted(t["predictions"][0]["score"] for t in tasks)
    assert "10 texts read: 1 repeated, 0 excluded, 0 left out" in caplog.text
    assert "tasks.json: 3 of 3 chosen, " in caplog.text


def test_rows_of_doccano_are_annotated_and_converted(home, trained, capsys, caplog):
    write_jsonl(home / "train.jsonl", [replace(gold, id=str(n)) for n, gold in enumerate(EIGHT[:2])])
    code, _, _ = in_process(
        capsys, "select", trained["full"], "texts.txt", "--output", "rows.jsonl", "--exclude", "train.jsonl"
    )
    assert code == 0
    assert "10 texts read: 0 repeated, 3 excluded, 0 left out" in caplog.text
    assert "7 of 100 chosen" in caplog.text
    assert in_process(capsys, "convert", "rows.jsonl", "next.jsonl")[0] == 0
    back = list(jsonl.read(home / "next.jsonl"))
    assert {row.text for row in back} == {*TEXTS[2:], "！"}
    both = (home / "train.jsonl").read_bytes() + (home / "next.jsonl").read_bytes()
    (home / "train.jsonl").write_bytes(both)
    assert len(list(jsonl.read(home / "train.jsonl"))) == 9, "ids do not clash"


def test_standard_input_is_read_and_rows_are_printed(home, trained, capsys, monkeypatch):
    for given in ([], ["-"]):
        data = io.BytesIO((home / "texts.txt").read_bytes())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
        code, out, _ = in_process(capsys, "select", trained["full"], *given, "--count", "2")
        assert code == 0
        assert len([json.loads(line)["label"] for line in out.splitlines()]) == 2


def test_bad_lines_are_counted_and_said(home, trained, capsys, caplog):
    lines = ['{"id": "a", "text": "三星"}', '{"id": "b"}', '{"id": "c", "text": 3}']
    (home / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    code, out, _ = in_process(capsys, "select", trained["full"], "in.jsonl")
    assert code == 0
    assert json.loads(out)["id"] == "a"
    assert "3 texts read: 0 repeated, 0 excluded, 2 left out" in caplog.text
    assert "in.jsonl:2" in caplog.text
    assert "in.jsonl:3" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["texts.txt", "--output", "tasks.xls"],
            ["--output", "tasks.xls", ".json for Label Studio", ".xlsx for Excel"],
        ),
        (["texts.txt", "texts.txt"], ["given twice"]),
        (["absent.txt"], ["absent.txt", "check the path"]),
        (["texts.txt", "--output", "nowhere/tasks.json"], ["nowhere"]),
        (["texts.jsonl", "--output", "texts.jsonl"], ["is the input itself"]),
        (["texts.txt", "--exclude", "absent.jsonl"], ["absent.jsonl", "no such data set"]),
        (["empty.txt"], ["no text to choose", "0 texts read"]),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(home, trained, capsys, arguments, told):
    (home / "texts.jsonl").write_text('{"text": "三星"}\n', encoding="utf-8")
    (home / "empty.txt").write_text("\n", encoding="utf-8")
    before = sorted(home.iterdir())
    code, out, err = in_process(capsys, "select", trained["full"], *arguments)
    assert (code, out) == (1, "")
    assert all(part in err for part in told), err
    assert sorted(home.iterdir()) == before


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_count_that_is_no_count_is_refused(home, trained, capsys, number):
    code, _, err = in_process(capsys, "select", trained["full"], "texts.txt", "--count", number)
    assert code == 2
    assert "--count" in err
