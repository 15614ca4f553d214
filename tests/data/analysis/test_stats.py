"""Laws of the statistics: they add up, a limit costs what leaving the rows out costs, and CLUENER's figures are known."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import font_manager
from rows import EIGHT, example

from qwen_ner.data.analysis.stats import Lengths, statistics
from qwen_ner.data.analysis.stats_plots import _fonts, draw
from qwen_ner.data.analysis.stats_table import round_limits, table
from qwen_ner.data.datasets import read_all, read_dataset, write_jsonl
from qwen_ner.data.tokenize import token_counts
from qwen_ner.entities import NerError

lengths = st.lists(st.tuples(st.integers(1, 200), st.integers(0, 9)), max_size=30)


@given(lengths, st.integers(0, 210))
def test_a_limit_loses_the_rows_that_are_longer(rows, limit):
    counted = Lengths.of(rows)
    assert counted.lost(limit) == (sum(n > limit for n, _ in rows), sum(e for n, e in rows if n > limit))
    assert counted.rows == len(rows)
    assert counted.longest == max((n for n, _ in rows), default=0)
    assert counted.lost(counted.longest) == (0, 0)


@given(lengths.filter(bool), st.floats(0.01, 1))
def test_a_quantile_is_the_first_length_that_enough_rows_do_not_exceed(rows, share):
    found = Lengths.of(rows).quantile(share)
    assert sum(n <= found for n, _ in rows) >= share * len(rows)
    assert sum(n < found for n, _ in rows) < share * len(rows)


@given(lengths.filter(bool))
def test_the_limits_shown_end_with_the_first_that_costs_nothing(rows):
    counted = Lengths.of(rows)
    limits = round_limits(counted)
    assert [counted.lost(limit)[0] > 0 for limit in limits] == [True] * (len(limits) - 1) + [False]


def test_sums_add_up_and_the_parts_are_those_of_the_rows():
    counted = statistics({"train": EIGHT[:5], "dev": EIGHT}, {"train": [(60, 9)] * 5, "dev": [(50, 8)] * 8})
    for name, rows in {"train": EIGHT[:5], "dev": EIGHT}.items():
        split = counted.splits[name]
        assert split.rows == len(rows) == split.lengths["row"].rows
        assert split.empty_rows == sum(not row.entities for row in rows)
        assert (
            split.entities == sum(len(row.entities) for row in rows) == sum(n.entities for n in split.labels.values())
        )
        assert split.written == sum(len(row.surfaces) for row in rows) == sum(n.written for n in split.labels.values())
        assert split.pairs == sum(n.surfaces for n in split.labels.values())
    assert counted.splits["train"].written_in_train is None
    assert counted.splits["dev"].written_in_train == counted.splits["train"].written
    assert counted.splits["dev"].lengths["row"].lost(57) == (8, counted.splits["dev"].entities)
    assert [d.likeness for d in counted.duplicates] == ["identical"] * 5


def test_what_stands_more_often_than_it_is_annotated_and_what_has_several_labels():
    twice = example("北京和北京队", ("address", "北京"))
    other = example("北京赢了", ("organization", "北京"), id="1")
    counted = statistics({"train": [twice, other]}, {"train": [(60, 9)] * 2})
    assert counted.splits["train"].partly == 1
    assert counted.several_labels == {"train": {"北京": {"address": 1, "organization": 1}}}


def test_the_json_holds_all_of_it_and_no_sentence():
    counted = statistics({"train": EIGHT, "dev": EIGHT[:2]}, {"train": [(60, 9)] * 8, "dev": [(60, 9)] * 2})
    text = json.dumps(counted.to_dict(), ensure_ascii=False)
    assert json.loads(text)["splits"]["train"]["lengths"]["answer"]["length_rows_entities"] == [[9, 8, 13]]
    assert not any(row.text in text for row in EIGHT)


def test_a_split_without_any_entity_counts_as_not_annotated():
    bare = [example("明天见"), example("好的", id="1")]
    counted = statistics({"train": EIGHT, "test": bare}, {"train": [(60, 9)] * 8, "test": [(40, 2)] * 2})
    lines = table(counted, "x", "tiny").splitlines()
    assert next(line for line in lines if line.startswith("rows without")).split("  ")[-1] == "not annotated"
    assert any(line.startswith("test prompt") for line in lines)
    assert not any(line.startswith("test answer") for line in lines)


def test_tokens_are_those_that_training_sees(codec, tokenizer):
    counts = token_counts(EIGHT, codec, tokenizer)
    assert len(counts) == len(EIGHT)
    for row, (prompt, answer) in zip(EIGHT, counts, strict=True):
        spelled = tokenizer.apply_chat_template(codec.messages(row.text), tokenize=False, add_generation_prompt=True)
        assert prompt == len(tokenizer(spelled, add_special_tokens=False)["input_ids"])
        assert answer == len(tokenizer(codec.encode(row), add_special_tokens=False)["input_ids"]) + 1


@pytest.fixture
def counted():
    rows = {"train": EIGHT, "dev": EIGHT[:3]}
    return statistics(rows, {name: [(50 + len(row.text), 9) for row in of] for name, of in rows.items()})


def test_plots(counted, tmp_path, recwarn):
    paths = draw(counted, tmp_path / "plots", "tiny")
    assert [path.name for path in paths] == ["labels.png", "lengths.png", "limits.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in paths)
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_plots_of_characters_that_no_font_has(tmp_path, caplog, recwarn):
    name = "\U000f1234"  # of private use
    rows = [example("阿司匹林", (name, "阿司匹林"))]
    with caplog.at_level(logging.WARNING):
        draw(statistics({"train": rows}, {"train": [(60, 9)]}), tmp_path, "tiny")
    assert f"No installed font has {name};" in caplog.text
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)], "it is said once"


def test_a_font_that_is_newer_than_the_list_of_matplotlib_is_found(monkeypatch, caplog):
    """Its list is kept in a file, so a font that was just installed is not in it, and one that was removed still is."""
    manager = font_manager.fontManager
    bundled = {Path(entry.fname).name: entry for entry in manager.ttflist}
    font = bundled["STIXGeneral.ttf"]
    removed = dataclasses.replace(font, fname="/removed.ttf")
    monkeypatch.setattr(manager, "ttflist", [removed, bundled["DejaVuSans.ttf"]])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: ["/broken.ttf", font.fname])
    with caplog.at_level(logging.WARNING):
        families = _fonts("A\u1d81")
    assert families[-1] == font.name
    assert font.fname in [entry.fname for entry in manager.ttflist]
    assert not caplog.text


def test_all_splits_of_a_data_set(tmp_path):
    assert list(read_all("sample")) == ["train", "dev", "test"]
    write_jsonl(tmp_path / "dev.jsonl", [EIGHT[0]])
    assert list(read_all(str(tmp_path))) == ["dev"]
    assert list(read_all(str(tmp_path / "dev.jsonl"))) == ["dev"]
    (tmp_path / "dev.jsonl").rename(tmp_path / "other.jsonl")
    with pytest.raises(NerError) as error:
        read_all(str(tmp_path))
    assert (error.value.place, error.value.value) == (str(tmp_path), "train")


def test_cluener(cluener_dir):
    splits = {split: read_dataset("cluener", split, data_dir=cluener_dir) for split in ("train", "dev")}
    counted = statistics(splits, {name: [(60, 9)] * len(rows) for name, rows in splits.items()})
    train, dev = counted.splits["train"], counted.splits["dev"]
    assert (train.rows, dev.rows) == (10_748, 1_343)
    assert (train.empty_rows, dev.empty_rows) == (0, 0)
    assert (train.entities, dev.entities) == (23_971, 3_072)
    assert (train.written, dev.written) == (23_338, 2_982)
    assert (train.partly, dev.partly) == (504, 80)
    assert round(dev.written_in_train / dev.written, 3) == 0.616
    assert len(counted.several_labels["train"]) == 435
    assert train.lengths["text"].longest == 50
    assert round(train.lengths["text"].mean, 1) == 37.4
