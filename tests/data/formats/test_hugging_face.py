"""Laws of Hugging Face data sets: whatever they were saved as, they say the same."""

from __future__ import annotations

import json
import time
from datetime import datetime
from types import SimpleNamespace

import pytest
from conftest import reaching
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from rows import EIGHT
from silent import mute, refusing

from qwen_ner.data.datasets import has_split, read_dataset
from qwen_ner.data.formats import hugging_face
from qwen_ner.data.formats.errors import DataError
from qwen_ner.data.formats.hugging_face import read, survey, write
from qwen_ner.data.formats.registry import open_source
from qwen_ner.data.formats.tagged.schemes import BIO2
from qwen_ner.data.formats.tagged.tagging import tags_for
from qwen_ner.entities import Entity, NerError

LABELS = sorted({entity.label for example in EIGHT for entity in example.entities})
NAMES = ["O", *(f"{prefix}-{label}" for label in LABELS for prefix in "BI")]


def ignored(*_):
    raise AssertionError("nothing is lost here")


def table(examples=EIGHT, names=NAMES):
    """The examples as such a data set, tags as numbers with names, or as strings."""
    tags = [tags_for(example, BIO2, ignored) for example in examples]
    kind = ClassLabel(names=names) if names else Value("string")
    columns = {
        "tokens": [list(example.text) for example in examples],
        "ner_tags": [[names.index(tag) for tag in row] for row in tags] if names else tags,
    }
    return Dataset.from_dict(columns, features=Features({"tokens": List(Value("string")), "ner_tags": List(kind)}))


def said(examples):
    return [(e.text, e.entities) for e in examples]


@pytest.fixture(scope="module", params=["saved", "saved-one-split", "parquet", "parquet-shards", "json", "strings"])
def folder(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("hub") / "news"
    place.mkdir()
    train, dev = table(), table(EIGHT[:3])
    if request.param == "saved":
        DatasetDict(train=train, validation=dev).save_to_disk(place)
    elif request.param == "saved-one-split":
        train.save_to_disk(place)
    elif request.param == "parquet":
        train.to_parquet(place / "train.parquet")
        dev.to_parquet(place / "validation.parquet")
    elif request.param == "parquet-shards":
        (place / "data").mkdir()
        train.to_parquet(place / "data" / "train-00000-of-00001.parquet")
        dev.to_parquet(place / "data" / "validation-00000-of-00001.parquet")
    else:
        suffix = "jsonl" if request.param == "json" else "json"
        table(names=None).to_json(place / f"train.{suffix}")
        table(EIGHT[:3], names=None).to_json(place / f"dev.{suffix}")
    return str(place), request.param


def test_however_it_was_saved_it_says_the_same(folder):
    place, kind = folder
    assert said(read_dataset(place, "train")) == said(EIGHT)
    assert read_dataset(place, "train")[1].id == "2"
    has_dev = kind != "saved-one-split"
    assert has_split(place, "dev") == has_dev
    assert not has_split(place, "nonsense")
    if has_dev:
        assert said(read_dataset(place, "dev")) == said(EIGHT[:3])
        with pytest.raises(NerError) as error:
            read_dataset(place, "nonsense")
        assert (error.value.place, error.value.value) == (place, "nonsense")


def test_a_split_must_be_chosen_where_there_are_several(tmp_path):
    DatasetDict(train=table(), validation=table()).save_to_disk(tmp_path)
    with pytest.raises(NerError) as error:
        open_source(str(tmp_path), None)
    assert error.value.place == str(tmp_path)
    assert error.value.remedy.endswith("--split one of train, validation")


def test_what_is_written_is_read_back(tmp_path):
    examples = [type(e)(f"id {n}", e.text, e.entities) for n, e in enumerate(EIGHT)]
    write(tmp_path / "train.parquet", examples, ignored)
    again = list(read(tmp_path / "train.parquet"))
    assert [(e.id, e.text, e.entities) for e in again] == [(e.id, e.text, e.entities) for e in examples]
    assert again[0].source == "train.parquet:1"


def opened(folder, **columns):
    Dataset.from_dict(columns).save_to_disk(folder / "saved")
    return survey(str(folder / "saved"), None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("lines", [True, False])
def test_json_is_read_in_the_encodings_that_other_files_may_have(encoding, lines, tmp_path):
    path = tmp_path / "train.json"
    table(names=None).to_json(path, lines=lines, force_ascii=False)
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert said(read(path)) == said(EIGHT)


@pytest.mark.parametrize("lines", [True, False])
def test_a_byte_that_is_not_utf_8_is_named_with_its_line(lines, tmp_path):
    path = tmp_path / "train.json"
    table(names=None).to_json(path, lines=lines, force_ascii=False)
    rows = path.read_bytes().split(b"\n")
    rows[3 if lines else 0] = rows[3 if lines else 0].replace(b'"O"', b'"\xff"', 1)
    path.write_bytes(b"\n".join(rows))
    with pytest.raises(NerError) as error:
        list(read(path))
    assert error.value.place == f"{path}:{4 if lines else 1}"
    assert "0xff" in str(error.value)
    assert "UTF-8" in error.value.remedy


def test_words_and_other_schemes_are_told(tmp_path):
    tokens = opened(tmp_path, tokens=[["New", "York", "is", "big"]], ner_tags=[["B-LOC", "E-LOC", "O", "S-ADJ"]])
    assert str(tokens) == "Hugging Face data set, BIOES, one word a token"
    (row,) = read(tokens.source, layout=tokens)
    assert (row.text, [(e.label, e.text) for e in row.entities]) == (
        "New York is big",
        [("LOC", "New York"), ("ADJ", "big")],
    )


def test_all_faults_come_at_once_with_their_rows(tmp_path):
    good = (["三", "星"], ["B-A", "I-A"])
    rows = [
        good,
        (["三"], ["B-A", "I-A"]),
        (["三", "星"], ["O", "I-A"]),
        (["三", ""], ["O", "O"]),
        (["三"], ["X"]),
        good,
        good,
    ]
    tokens = opened(
        tmp_path, tokens=[row[0] for row in rows], ner_tags=[row[1] for row in rows], id=[*"abcdefa"], topic=["x"] * 7
    )
    notes = []
    with pytest.raises(DataError) as error:
        list(read(tokens.source, layout=tokens, note=lambda *note: notes.append(note)))
    assert [fault.split(": ")[0] for fault in error.value.faults] == [f"saved:{n}" for n in (2, 3, 4, 5, 7)]
    for fault, said in zip(
        error.value.faults,
        ("1 tokens have 2 tags", "token 2: I-A follows O", "or one is empty", 'token 1: "X"', "row 1's too"),
        strict=True,
    ):
        assert said in fault
    assert notes == [('the column "topic"', "saved")]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"pieces": [["三"]], "ner_tags": [["O"]]}, "no column tokens, only pieces, ner_tags"),
        ({"words": [["三"]], "chars": [["三"]], "ner_tags": [["O"]]}, "no column tokens, only words, chars, ner_tags"),
        ({"tokens": [["三"]], "ner_tags": [[0]]}, "numbers without names"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path, columns, said):
    with pytest.raises(NerError, match=said) as error:
        opened(tmp_path, **columns)
    assert error.value.place == str(tmp_path / "saved")
    assert error.value.remedy


@pytest.mark.parametrize(("tokens", "tags"), [("words", "labels"), ("chars", "tags"), ("text", "label")])
def test_columns_of_other_names_are_read(tmp_path, tokens, tags):
    found = opened(tmp_path, **{tokens: [["三", "星"]], tags: [["B-A", "I-A"]]})
    assert said(read(found.source, layout=found)) == [("三星", (Entity("A", "三星", 0, 2),))]


@pytest.mark.parametrize(
    "row",
    [
        {"text": ["三", "星"], "label": ["B-A", "I-A"]},
        {"words": ["三", "星"], "labels": ["B-A", "I-A"]},
        {"chars": ["三", "星"], "label": ["B-A", "I-A"]},
        {"text": "三星", "tokens": ["三", "星"], "ner_tags": ["B-A", "I-A"]},
    ],
)
def test_rows_of_tokens_and_tags_are_not_taken_for_those_of_doccano(tmp_path, row):
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert said(open_source(str(tmp_path / "train.jsonl"), None).examples()) == [("三星", (Entity("A", "三星", 0, 2),))]


def test_a_hub_id_without_a_network_is_one_clear_error():
    for call in (read_dataset, has_split):
        with pytest.raises(NerError) as error:
            call("nobody/nothing", "train")
        assert error.value.place == "nobody/nothing"
        assert "check the id and the network" in error.value.remedy


def test_a_path_with_a_slip_in_it_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(NerError, match="no such data set") as error:
        read_dataset("data/medicne", "train")
    assert error.value.place == "data/medicne"


def test_a_hub_id_may_name_a_configuration(monkeypatch):
    """The library's own functions, as far as they are asked; the Hub itself is not reached."""
    asked = []
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *args: ["train", "validation"])
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **options: asked.append((args, options)) or table())
    assert said(read_dataset("unimelb-nlp/wikiann:zh", "dev")) == said(EIGHT)
    assert asked == [(("unimelb-nlp/wikiann", "zh"), {"split": "validation"})]
    assert has_split("unimelb-nlp/wikiann:zh", "dev")
    assert not hugging_face.is_hub_id("a/b/c")


@pytest.mark.parametrize("dead", [refusing, mute])
def test_a_hub_that_cannot_be_reached_is_said_at_once(dead, tmp_path):
    with dead() as url, reaching(SimpleNamespace(url=url), tmp_path):
        started = time.monotonic()
        with pytest.raises(NerError) as caught:
            survey("tester/tagged", "train")
        assert time.monotonic() - started < 10
    assert caught.value.place == "tester/tagged"
    assert url in caught.value.what
    assert all(way in caught.value.remedy for way in ("HF_ENDPOINT", "folder"))


def test_an_id_that_json_cannot_write_is_a_fault_of_its_row(tmp_path):
    rows = {"id": [datetime(2023, 1, 1)], "tokens": [["三"]], "ner_tags": [["O"]]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match='"id" is "2023-01-01 00:00:00"; make it a string'):
        list(read(tmp_path / "a.parquet"))
