"""Examples on the disk: the same sequence as in memory, without the memory."""

import logging
import os
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rows import EIGHT, example

from qwen_ner.codec import Codec
from qwen_ner.data import arrow_store
from qwen_ner.data.arrow_store import StoredDecoded, StoredExamples
from qwen_ner.data.split import hold_out
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER, Entity, Example, NerError, fingerprint

ROWS = [
    *EIGHT,
    Example("无", "没有实体"),
    Example("分", "三星𠮷", (Entity("company", "三星", 0, 2, 0.25, True), Entity("name", "𠮷", 2, 3)), "x.jsonl:9"),
]


def test_it_is_the_sequence_that_was_written():
    stored = StoredExamples.of(iter(ROWS))
    assert (len(stored), list(stored), [stored[n] for n in range(len(ROWS))]) == (len(ROWS), ROWS, ROWS)
    assert [entity.ambiguous for entity in stored[-1].entities] == [True, False]
    for part in (slice(3, 7), slice(None, -1), slice(-2, None), slice(None, None, 3), slice(5, 5), slice(0, None)):
        assert list(stored[part]) == ROWS[part]
    assert list(stored[2:][1:]) == ROWS[3:]
    assert list(stored.select([4, 4, 0])) == [ROWS[4], ROWS[4], ROWS[0]]
    assert fingerprint(stored) == fingerprint(ROWS)
    with pytest.raises(IndexError):
        stored[len(ROWS)]
    assert list(StoredExamples.of([])) == []


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_no_file_is_left_however_the_process_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    held = StoredExamples.of(ROWS)
    assert not files(tmp_path)
    assert list(held[2:]) == ROWS[2:]


def test_its_file_is_neither_mapped_while_it_is_open_nor_removed_while_it_is_mapped_on_windows(tmp_path, monkeypatch):
    """Which Windows does not allow."""
    from datasets import Dataset

    read = Dataset.from_file
    of_process = Path("/proc/self")

    def from_file(name, **options):
        assert name not in [os.readlink(handle) for handle in of_process.glob("fd/*") if handle.is_symlink()]
        return read(name, **options)

    def unlink(name):
        assert str(name) not in (of_process / "maps").read_text()
        os.unlink(name)

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(Dataset, "from_file", from_file)
    monkeypatch.setattr(arrow_store, "os", SimpleNamespace(**{**vars(os), "name": "nt", "unlink": unlink}))
    assert list(StoredExamples.of(ROWS)) == ROWS
    assert not files(tmp_path)


def test_nothing_is_left_of_rows_that_end_in_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)

    def faulty():
        yield from ROWS
        raise NerError("the last line is no JSON")

    with pytest.raises(NerError, match="no JSON"):
        StoredExamples.of(faulty())
    assert not files(tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_held_out_of_it_as_of_a_list(seed):
    rows = [replace(row, id=str(n)) for n, row in enumerate(random.Random(seed).choices(ROWS, k=60))]
    in_memory, on_disk = hold_out(rows, 20, seed), hold_out(StoredExamples.of(rows), 20, seed)
    assert [list(part) for part in on_disk] == [list(part) for part in in_memory]


def test_it_is_tokenized_as_a_list_is(tokenizer):
    codec = Codec(CLUENER)
    part = StoredExamples.of(ROWS)[2:]
    assert build_dataset(part, codec, tokenizer).to_list() == build_dataset(ROWS[2:], codec, tokenizer).to_list()
    assert (
        build_dataset(part, codec, tokenizer, num_proc=2).to_list() == build_dataset(part, codec, tokenizer).to_list()
    )


def test_reading_splitting_and_tokenizing_take_the_memory_of_a_batch(tokenizer):
    """Python's own memory at its peak: a few bytes more for each row more, where a row as objects takes a thousand."""
    codec = Codec(CLUENER)

    def rows(number):
        return (
            example(f"三星在北京的第{n}家店", ("company", "三星"), ("address", "北京"), id=str(n))
            for n in range(number)
        )

    def peak(number):
        tracemalloc.start()
        train, _ = hold_out(StoredExamples.of(rows(number)), 50, seed=0, together=True)
        kept = build_dataset(train, codec, tokenizer)
        assert len(kept) == number - 50
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    logging.getLogger("datasets").setLevel(logging.ERROR)
    peak(6_000)  # what is imported on the way is not of the rows
    assert (peak(6_000) - peak(2_000)) / 4_000 < 100


def test_predictions_come_back_as_they_were():
    """Whatever a model may write: half a surrogate pair, a NUL, nothing at all."""
    codec = Codec(CLUENER)
    written = [
        '{"company":["三星"],"name":["\\ud800","a\\u0000"],"\\udc00x":["三星"]}', "三星\ud83d", "", "{}",
        '{"company":["三星"]}',
    ]  # fmt: skip
    predicted = [codec.decode("三星在三星", completion) for completion in written]
    predicted[4] = predicted[4].scored({("company", "三星"): 0.1})
    stored = StoredDecoded.of(iter(predicted))
    assert list(stored) == [stored[n] for n in range(5)] == predicted
    assert [*stored.select([4, 0])] == [predicted[4], predicted[0]]


def test_a_fault_of_what_is_read_is_not_taken_for_one_of_the_disk():
    def unreadable():
        yield from ROWS
        try:
            raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise NerError("cannot be read", place="rows.jsonl") from error

    with pytest.raises(NerError) as error:
        StoredExamples.of(unreadable())
    assert error.value.place == "rows.jsonl"
