"""Laws of doccano's export: both ways exact, and every fault named with its row."""

from __future__ import annotations

import json

import pytest
from rows import EIGHT

from qwen_ner.data.formats import doccano as doccano_format
from qwen_ner.data.formats import registry
from qwen_ner.data.formats.doccano import as_row, read
from qwen_ner.data.formats.errors import DataError
from qwen_ner.entities import CLUENER, Entity, Example, NerError

TEXT = "三星在北京😀开会"
COMPANY, PLACE, INNER = Entity("company", "三星", 0, 2), Entity("address", "北京", 3, 5), Entity("address", "京", 4, 5)
EMOJI = Entity("name", "😀开", 5, 7)
NESTED = Example("n", TEXT, (COMPANY, PLACE, INNER, EMOJI))


def said(examples):
    return [(e.id, e.text, e.entities) for e in examples]


def numbered(examples):
    return [Example(str(at), e.text, e.entities) for at, e in enumerate(examples)]


def doccano(folder, *rows, labels=None, note=None):
    path = folder / "all.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    options = {"note": note} if note else {}
    return list(read(path, labels, **options))


def test_doccano_comes_back(tmp_path):
    examples = [*numbered(EIGHT), NESTED]
    assert said(doccano(tmp_path, *map(as_row, examples))) == said(examples)


@pytest.mark.parametrize(
    "annotation",
    [
        {"label": [[0, 2, "company"], [3, 5, "address"]]},
        {"labels": [[3, 5, "address"], [0, 2, "company"]]},
        {"entities": [{"id": 1, "label": "company", "start_offset": 0, "end_offset": 2},
                      {"id": 2, "label": "address", "start_offset": 3, "end_offset": 5}], "relations": [], "Comments": []},
    ],
)  # fmt: skip
def test_each_form_of_doccano_says_the_same(tmp_path, annotation):
    notes = []
    rows = doccano(tmp_path, {"id": 3, "text": TEXT, **annotation}, labels=CLUENER, note=lambda *n: notes.append(n))
    assert said(rows) == [("3", TEXT, (COMPANY, PLACE))]
    assert not notes


def test_what_doccano_says_beside_entities_is_noted(tmp_path):
    notes = []
    row = {
        "text": TEXT,
        "entities": [],
        "relations": [{"id": 0, "from_id": 1, "to_id": 2, "type": "of"}],
        "source": "a",
    }
    doccano(tmp_path, row, note=lambda *note: notes.append(note))
    assert sorted(notes) == [('the key "relations"', "all.jsonl:1"), ('the key "source"', "all.jsonl:1")]


@pytest.mark.parametrize(
    ("annotation", "fault"),
    [
        ({}, 'lacks "label"; a sentence without entities has "label": []'),
        ({"spans": [[0, 2, "company"]]}, 'lacks "label"'),
        ({"label": [], "entities": []}, 'has "label" and "entities"'),
        ({"label": {"company": ["三星"]}}, "make it a list"),
        ({"label": [[0, 2]]}, "the annotation [0, 2]"),
        ({"entities": [{"label": "company", "start": 0, "end": 2}]}, "cannot be read"),
        ({"label": [[0, 20, "company"]]}, "[0, 20) of company is empty or leaves the text"),
        ({"label": [[0, "2", "company"]]}, "is not made of whole numbers"),
        ({"label": [[0, 2, "compny"]]}, 'did you mean "company"?'),
    ],
)
def test_a_fault_of_doccano_is_told_with_its_line(tmp_path, annotation, fault):
    with pytest.raises(DataError) as error:
        doccano(tmp_path, {"text": "好", "label": []}, {"text": TEXT, **annotation}, labels=CLUENER)
    (told,) = error.value.faults
    assert told.startswith("all.jsonl:2: ")
    assert fault in told


def test_an_array_and_the_key_data_are_read(tmp_path):
    rows = [{"id": 1, "data": TEXT, "label": [[0, 2, "company"]]}, {"id": 2, "data": "好", "label": []}]
    (tmp_path / "all.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    assert registry.detect(tmp_path / "all.json") is doccano_format
    assert (
        said(read(tmp_path / "all.json"))
        == said(doccano(tmp_path, *rows))
        == [("1", TEXT, (COMPANY,)), ("2", "好", ())]
    )
    assert [e.source for e in read(tmp_path / "all.json")] == ["all.json: row 1", "all.json: row 2"]


def test_label_studios_short_export_is_read(tmp_path):
    item = {"start": 0, "end": 2, "text": "三星", "labels": ["company"]}
    (tmp_path / "min.json").write_text(json.dumps([{"id": 5, "text": TEXT, "label": [item], "annotator": 1}]))
    assert registry.detect(tmp_path / "min.json") is doccano_format
    assert said(read(tmp_path / "min.json")) == [("5", TEXT, (COMPANY,))]


def test_faults_of_an_array_are_told_with_their_row(tmp_path):
    rows = [{"id": 1, "text": TEXT, "label": []}, {"id": 1, "text": TEXT, "label": [[0, 99, "company"]]}]
    (tmp_path / "all.json").write_text(json.dumps(rows))
    with pytest.raises(DataError) as error:
        list(read(tmp_path / "all.json"))
    assert [fault.split(": ")[:2] for fault in error.value.faults] == [["all.json", "row 2"]] * 2
    assert "row 1's too" in error.value.faults[0]
    (tmp_path / "all.json").write_text('[{"text": "一"}, {"text": ]')
    with pytest.raises(NerError) as error:
        list(read(tmp_path / "all.json"))
    assert (error.value.place, bool(error.value.remedy)) == (tmp_path / "all.json", True)


def test_names_in_place_of_spans_are_one_fault_a_row(tmp_path):
    row = {"text": "三星在北京", "labels": ["B-ORG", "I-ORG", "O", "B-LOC", "I-LOC"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        list(registry.open_source(str(tmp_path / "a.jsonl"), None).examples())
    (fault,) = error.value.faults
    assert '"tokens"' in fault
    row = {"tokens": [*row["text"]], "ner_tags": row["labels"]}
    (tmp_path / "b.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    (example,) = registry.open_source(str(tmp_path / "b.jsonl"), None).examples()
    assert [entity.text for entity in example.entities] == ["三星", "北京"]
