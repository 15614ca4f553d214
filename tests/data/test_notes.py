"""What reading has to say: the same from every command that reads."""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import suppress

import pytest
from rows import example

from qwen_ner import cli
from qwen_ner.data.datasets import read_all, read_dataset, write_jsonl
from qwen_ner.data.notes import BLANK, TRIMMED, Watch, look_alikes
from qwen_ner.entities import Entity, Example
from qwen_ner.training.arguments import DataArguments
from qwen_ner.training.preparation import read_splits

SPACED = "张伟 在\u3000北京\ufeff"


def test_white_space_around_entities_is_trimmed_counted_and_listed():
    spans = [(0, 3), (0, 2), (4, 8), (2, 3)]
    row = Example("0", SPACED, tuple(Entity("A", SPACED[s:e], s, e, 0.5) for s, e in spans), "a:1")
    watch = Watch()
    (read,) = watch.examples([row])
    assert read.entities == (Entity("A", "张伟", 0, 2, 0.5), Entity("A", "北京", 5, 7, 0.5))
    assert watch.counts == {TRIMMED: 2, BLANK: 1}
    assert watch.places[BLANK] == ['a:1: A " " [2, 3)']


def test_rows_without_white_space_pass_as_they_are():
    row, watch = example("张伟在北京", ("name", "张伟")), Watch()
    assert next(watch.examples([row])) is row
    assert watch.lines() == []


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (["地址 ", "地址"], [["地址 ", "地址"]]),
        (["Address", "name", "ＡＤＤＲＥＳＳ", "addr ess"], [["Address", "ＡＤＤＲＥＳＳ", "addr ess"]]),
        (["地\u3000点", "地点", "地址"], [["地\u3000点", "地点"]]),
        (["PER", "PER\u200b"], [["PER", "PER\u200b"]]),
        (["A", "B", "人名", "人"], []),
    ],
)
def test_labels_that_look_alike(names, alike):
    assert [[name for name, _ in group] for group in look_alikes(Counter(names))] == alike


def test_labels_of_several_splits_are_compared(tmp_path, caplog):
    write_jsonl(tmp_path / "train.jsonl", [example("张伟", ("name", "张伟"))])
    write_jsonl(tmp_path / "dev.jsonl", [example("张伟", ("Name", "张伟"))])
    read_all(str(tmp_path))
    assert '"name" (1) and "Name" (1)' in caplog.text


def test_every_command_says_the_same_once(tmp_path, caplog, capsys):
    rows = [{"text": f"第{n}天 张伟 来", "label": [[3, 7, "name"]]} for n in range(4)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = f'{TRIMMED}: 4 (train.jsonl:1: name " 张伟 " [3, 7)'
    (tmp_path / "recipe.yaml").write_text(
        f"model_name_or_path: tiny\ndataset: {tmp_path}\nvalidation_rows: 1\nuse_cpu: true\nreport_to: none\n"
        f"max_steps: 1\noutput_dir: {tmp_path / 'out'}\n"
    )
    for command in (
        ["convert", tmp_path / "train.jsonl", tmp_path / "out.json"],
        ["stats", "--data", tmp_path],
        ["audit", "--data", tmp_path],
        ["doctor", tmp_path / "recipe.yaml"],
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING), suppress(SystemExit):
            cli.main([str(argument) for argument in command])
        shown = capsys.readouterr()
        assert (caplog.text + shown.out).count(line) == 1, command
    assert [e.text for row in read_dataset(str(tmp_path), "train") for e in row.entities] == ["张伟"] * 4
    splits = read_splits(DataArguments(dataset=str(tmp_path), validation_rows=1))  # run logs what doctor shows
    assert splits.notes[0].startswith(line)
