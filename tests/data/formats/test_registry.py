"""Laws of the registry: a format is one object and one entry, and documentation comes from it."""

from __future__ import annotations

import gzip
import json

import pytest
from rows import EIGHT

from qwen_ner.data.convert import convert
from qwen_ner.data.datasets import has_split, iter_dataset, read_all, write_jsonl
from qwen_ner.data.formats import registry
from qwen_ner.data.formats.lines import lines_of, write_lines
from qwen_ner.data.formats.mentions import without_scores
from qwen_ner.entities import Entity, Example, NerError

ROWS = [Example(str(at), e.text, e.entities) for at, e in enumerate(EIGHT, start=1)]


class Toy:
    """A text a line, then `start-end=label` for each entity, separated by `|`."""

    NAME, SUFFIXES, DESCRIPTION = "toy", (".toy",), "toy lines"

    @staticmethod
    def sniff(head, name):
        return head.startswith(b"toy|")

    @staticmethod
    def read(path, labels=None, **_):
        for number, line in enumerate(lines_of(path)):
            if number:
                text, *items = line.decode().rstrip("\n").split("|")
                parts = [item.replace("=", "-").split("-") for item in items]
                entities = tuple(Entity(label, text[int(a) : int(b)], int(a), int(b)) for a, b, label in parts)
                yield Example(str(number), text, entities, f"{path}:{number}")

    @staticmethod
    def write(path, examples, lose):
        lines = ("|".join([e.text, *(f"{x.start}-{x.end}={x.label}" for x in e.entities)]) for e in examples)
        write_lines(path, ["toy|\n", *(f"{line}\n" for line in lines)])


def said(examples):
    return [(e.id, e.text, e.entities) for e in examples]


def test_a_format_is_one_object_and_one_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "FORMATS", [*registry.FORMATS, Toy])
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    convert(str(tmp_path / "train.jsonl"), tmp_path / "toy" / "train.toy")
    convert(str(tmp_path / "toy" / "train.toy"), tmp_path / "dev", to="toy")
    assert registry.detect(tmp_path / "dev") is Toy
    convert(str(tmp_path / "dev"), tmp_path / "again.bmes")
    convert(str(tmp_path / "again.bmes"), tmp_path / "again.jsonl")
    assert said(iter_dataset(str(tmp_path / "again.jsonl"), "train")) == said(ROWS)
    folder = str(tmp_path / "toy")
    assert [has_split(folder, split) for split in ("train", "dev")] == [True, False]
    assert said(read_all(folder)["train"]) == said(ROWS)
    assert "toy lines" in registry.describe()


@pytest.mark.parametrize("name", registry.writers())
def test_what_a_writer_loses_is_noted(tmp_path, name):
    """A score, an id and a group come back, or are noted."""
    entity, target = (
        Entity("company", "三星", 0, 2, 0.5),
        tmp_path / ("out.json" if name == "cluener" else f"out.{name}"),
    )
    write_jsonl(tmp_path / "in.jsonl", [Example("own", "三星在", (entity,), group="g")])
    result = convert(str(tmp_path / "in.jsonl"), target, to=name)
    (again,) = registry.open_source(str(target), None).examples()
    assert (again.entities[0].score is None) == ("scores" in result.losses.counts)
    assert (again.group != "g") == ("groups" in result.losses.counts)
    assert (again.id != "own") == ("ids" in result.losses.counts)


def test_scores_are_noted_once_an_example():
    lost = []
    row = Example("0", "三星在", (Entity("a", "三", 0, 1, 0.5), Entity("b", "星", 1, 2, 0.5)), "x:1")
    assert list(without_scores([row], lambda *what: lost.append(what))) == [row]
    assert lost == [("scores", "x:1")]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        (
            "dev.json",
            '{"id": "a", "tokens": ["三", "星"], "ner_tags": ["B-C", "I-C"], "labels": [1, 2]}\n',
            "hugging-face",
        ),
        ("dev.bio", "[]\tO\n三\tB-C\n", "bio"),
        ("dev.json", '{"text": "三星", "entities": []}\n', "jsonl"),
    ],
)
def test_a_file_is_told_by_its_content(tmp_path, name, content, found):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert registry.detect(tmp_path / name).__name__.rpartition(".")[2] == found.replace("-", "_")


@pytest.mark.parametrize(
    ("name", "start", "remedy"),
    [
        ("a.xls", b"\xd0\xcf\x11\xe0", "save it as .xlsx or .csv"),
        ("a.zip", b"PK\3\4", "unpack it"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00", "gunzip"),
    ],
)
def test_a_file_that_is_no_text_is_told_by_its_first_bytes(tmp_path, name, start, remedy):
    (tmp_path / name).write_bytes(start + bytes(range(256)) * 4)
    with pytest.raises(NerError) as error:
        registry.detect(tmp_path / name)
    assert remedy in error.value.remedy


@pytest.mark.parametrize("other", ["~$data.xlsx", ".data.jsonl", ".~lock.data.csv"])
def test_files_of_editors_are_no_data(tmp_path, other):
    write_jsonl(tmp_path / "data.jsonl", ROWS)
    (tmp_path / other).write_bytes(b"\5open\n")
    assert registry.only_file(tmp_path) == tmp_path / "data.jsonl"
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    (tmp_path / ".train.jsonl.swp").write_bytes(b"\5open\n")
    (tmp_path / "train.jsonl").rename(tmp_path / "my.train")
    assert registry.find(tmp_path, "train") == tmp_path / "my.train"


@pytest.mark.parametrize("other", ["test.py", "test.log", "dev.md", "dev_predictions.jsonl", "run.dev.pred.json"])
def test_a_file_with_the_name_of_a_split_in_its_name_is_not_always_the_split(tmp_path, other):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    content = (tmp_path / "rows.jsonl").read_bytes() if "pred" in other else b"assert True\n"
    (tmp_path / other).write_bytes(content)
    assert not any(has_split(str(tmp_path), split) for split in ("dev", "test"))


@pytest.mark.parametrize("names", [("训练集", "验证集", "测试集"), ("training", "eval", "testing")])
def test_splits_may_have_chinese_and_other_usual_names(tmp_path, names, caplog):
    for name in names:
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS)
    assert list(read_all(str(tmp_path))) == ["train", "dev", "test"]
    assert not caplog.messages


@pytest.mark.parametrize("other", ["train2.jsonl", "rows.csv", "dev.jsonl.gz", "验证.jsonl"])
def test_data_that_are_of_no_split_are_named(tmp_path, other, caplog):
    """A dev set called otherwise would be missing without a word."""
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    content = (
        b"text,label,entity\n\xe4\xb8\x89,x,\xe4\xb8\x89\n"
        if other.endswith("csv")
        else b'{"text": "a", "entities": []}\n'
    )
    (tmp_path / other).write_bytes(gzip.compress(content) if other.endswith("gz") else content)
    for file in ("README.txt", "labels.json", "predictions.jsonl"):
        (tmp_path / file).write_text('{"a": 1}\n' if "json" in file else "words\n", encoding="utf-8")
    read_all(str(tmp_path))
    assert [message for message in caplog.messages if "not read" in message] == [
        f"{tmp_path}: not read: {other}. The file of a split is called train, dev or test, and is not packed."
    ]


def test_of_two_files_for_one_split_only_its_reader_is_told(tmp_path):
    for name in ("train", "dev", "val"):
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS)
    assert len(list(iter_dataset(str(tmp_path), "train"))) == len(ROWS)
    with pytest.raises(NerError, match="several can be the split dev"):
        list(iter_dataset(str(tmp_path), "dev"))


def test_a_file_that_names_two_splits_is_neither(tmp_path):
    write_jsonl(tmp_path / "train_dev.jsonl", ROWS)
    assert registry.find(tmp_path, "train") is registry.find(tmp_path, "dev") is None
    assert registry.only_file(tmp_path) == tmp_path / "train_dev.jsonl"


def test_a_split_that_is_told_by_a_part_of_a_name_is_said(tmp_path, caplog):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "ner.dev.jsonl", ROWS)
    assert registry.find(tmp_path, "train") == tmp_path / "train.jsonl"
    assert not caplog.messages
    assert registry.find(tmp_path, "dev") == tmp_path / "ner.dev.jsonl"
    assert [message.split(": ")[1] for message in caplog.messages] == ["ner.dev.jsonl is taken for the split dev."]


@pytest.mark.parametrize("key", ["text", "content", "sentence"])
def test_rows_of_offsets_under_annotations_are_no_tasks(tmp_path, key):
    row = {key: "三星在北京", "annotations": [{"start": 0, "end": 2, "label": "company"}]}
    (tmp_path / "a.json").write_text(json.dumps([row], ensure_ascii=False), encoding="utf-8")
    (example,) = registry.open_source(str(tmp_path / "a.json"), None).examples()
    assert example.entities == (Entity("company", "三星", 0, 2),)
