"""Laws of Label Studio's export: both ways exact, and every fault named with its task."""

from __future__ import annotations

import json

import pytest
from rows import EIGHT

from qwen_ner.data.formats.errors import DataError
from qwen_ner.data.formats.label_studio import as_task, read
from qwen_ner.entities import CLUENER, Entity, Example, NerError

TEXT = "三星在北京😀开会"
COMPANY, PLACE, INNER = Entity("company", "三星", 0, 2), Entity("address", "北京", 3, 5), Entity("address", "京", 4, 5)
EMOJI = Entity("name", "😀开", 5, 7)
NESTED = Example("n", TEXT, (COMPANY, PLACE, INNER, EMOJI))


def said(examples):
    return [(e.id, e.text, e.entities) for e in examples]


def numbered(examples):
    return [Example(str(at), e.text, e.entities) for at, e in enumerate(examples)]


def studio(folder, *tasks, **options):
    path = folder / "tasks.json"
    path.write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")
    return list(read(path, **options))


def result(start, end, text, *labels, **more):
    value = {"start": start, "end": end, "text": text, "labels": list(labels)}
    return {"id": "x", "from_name": "label", "to_name": "text", "type": "labels", "value": value, **more}


def task(*results, **more):
    return {"id": 5, "data": {"text": TEXT}, "annotations": [{"id": 1, "result": list(results)}], **more}


FIRST = result(0, 2, "三星", "company")


def test_label_studio_comes_back(tmp_path):
    scored = Example("s", TEXT, (Entity("company", "三星", 0, 2, 0.25), PLACE))
    examples = [*numbered(EIGHT), NESTED, scored]
    assert said(studio(tmp_path, *map(as_task, examples))) == said(examples)


def test_a_task_is_read_with_its_id_and_each_of_its_labels(tmp_path):
    (row,) = studio(tmp_path, task(FIRST, result(3, 5, "北京", "address", "scene")), labels=CLUENER)
    assert row == Example("5", TEXT, (COMPANY, PLACE, Entity("scene", "北京", 3, 5)), "tasks.json: task 1")
    (row,) = studio(tmp_path, {**task(FIRST), "data": {"content": TEXT, "n": 3}})
    assert row.text == TEXT


def test_of_several_annotations_the_true_one_is_taken_or_they_must_agree(tmp_path):
    both = {**task(), "annotations": [{"result": [FIRST]}, {"result": []}]}
    with pytest.raises(DataError) as error:
        studio(tmp_path, both)
    (fault,) = error.value.faults
    assert fault.startswith("tasks.json: task 1: ")
    assert "2 annotations that differ" in fault
    notes = []
    both["annotations"][0]["ground_truth"] = True
    (row,) = studio(tmp_path, both, note=lambda *note: notes.append(note))
    assert row.entities == (COMPANY,)
    what = "annotations that are cancelled or beside the one marked as ground truth"
    assert notes == [(what, "tasks.json: task 1")]
    (row,) = studio(tmp_path, {**task(), "annotations": [{"result": [FIRST]}, {"result": [FIRST]}]})
    assert row.entities == (COMPANY,)


def test_what_is_left_out_of_label_studio_is_noted(tmp_path):
    notes = []
    cancelled = {"was_cancelled": True, "result": []}
    row = task(FIRST, {"type": "relation", "from_id": "x", "to_id": "y"}, predictions=[{"result": []}])
    row["annotations"].append(cancelled)
    row["data"]["source"] = "web"
    (read,) = studio(tmp_path, row, note=lambda *note: notes.append(note[0]))
    assert read.entities == (COMPANY,)
    assert sorted(notes) == [
        "annotations that are cancelled or beside the one marked as ground truth",
        'results of type "relation"', 'the key "predictions"', 'the key "source"',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"id": 1, "text": TEXT, "label": []}, 'has no "data"'),
        ({"data": {"image": 3}, "annotations": []}, 'lacks "text"'),
        (
            {"data": {"letter": "三星", "of": "王"}, "annotations": []},
            'rename "letter" or "of" to "text" if',
        ),
        ({"data": {"text": TEXT}}, '"annotations" is null'),
        ({"data": {"text": TEXT}, "annotations": []}, "has no annotation"),
        (task(result(0, 2, "北京", "company")), 'the span [0, 2) holds "三星", the surface is "北京"'),
        (task(result(0, 2, "三星")), 'lacks "start", "end" or "labels"'),
        (task({**FIRST, "value": {**FIRST["value"], "labels": "company"}}), 'lacks "start", "end" or "labels"'),
        (task(result(0, 2, "三星", "compny")), 'did you mean "company"?'),
        (task({"type": "labels", "value": {"start": 0}}), 'lacks "start", "end" or "labels"'),
        (task(result(0, 2, "三星", "company", score=7)), "has the score 7"),
        ({**task(FIRST), "id": 1.5}, '"id" is 1.5'),
    ],
)
def test_a_fault_of_label_studio_is_told_with_its_task(tmp_path, wrong, fault):
    with pytest.raises(DataError) as error:
        studio(tmp_path, {**task(FIRST), "id": 4}, wrong, labels=CLUENER)
    assert all(told.startswith("tasks.json: task 2: ") for told in error.value.faults)
    assert any(fault in told for told in error.value.faults)


def test_a_result_that_is_given_twice_is_one(tmp_path):
    warned = []
    (read,) = studio(tmp_path, task(FIRST, FIRST), warn=lambda *said: warned.append(said[0]))
    assert read.entities == (COMPANY,)
    assert warned == ["entities that are given twice, read as one"]


def test_an_id_twice_names_the_first_task(tmp_path):
    with pytest.raises(DataError) as error:
        studio(tmp_path, task(FIRST), task(FIRST))
    (fault,) = error.value.faults
    assert fault.startswith('tasks.json: task 2: the id "5" is task 1\'s too')


@pytest.mark.parametrize("content", ["{}", "[]", "[{]", '[{"a": 1, "a": 2}]'])
def test_what_is_no_list_of_tasks_is_refused(tmp_path, content):
    (tmp_path / "tasks.json").write_text(content)
    with pytest.raises(NerError) as error:
        list(read(tmp_path / "tasks.json"))
    assert str(error.value.place) == str(tmp_path / "tasks.json")
    assert "; " in str(error.value), "no remedy"


def hyper(text, **value):
    offsets = {"start": "/text()[1]", "end": "/text()[1]", "startOffset": 0, "endOffset": 2}
    result = {"type": "hypertextlabels", "value": {**offsets, "text": "张伟", "hypertextlabels": ["name"], **value}}
    return {"data": {"text": text}, "annotations": [{"result": [result, result][: 1 + text.count("<")]}]}


@pytest.mark.parametrize(
    "value", [{}, {"start": 0, "end": 2}, {"startOffset": 9, "globalOffsets": {"start": 0, "end": 2}}]
)
def test_labels_of_hypertext_are_read_in_plain_text(tmp_path, value):
    (row,) = studio(tmp_path, hyper("张伟在 1 > 0", **value))
    assert row.entities == (Entity("name", "张伟", 0, 2),)


def test_labels_on_html_are_refused_once_a_task(tmp_path):
    with pytest.raises(DataError) as error:
        studio(tmp_path, hyper("张伟"), hyper("<p>张伟</p>"), hyper("好<br>张伟"), hyper("张伟&amp;李娜"))
    assert [fault.split(": ")[1] for fault in error.value.faults] == ["task 2", "task 3", "task 4"]


def test_offsets_that_are_strings_are_shown(tmp_path):
    with pytest.raises(DataError) as error:
        studio(tmp_path, task(result("0", "2", "三星", "company")))
    assert '["0", "2")' in error.value.faults[0]


def test_no_span_becomes_a_row_without_entities_unsaid(tmp_path):
    with pytest.raises(DataError) as error:
        studio(
            tmp_path, task({"type": "paragraphlabels", "value": {"start": "0", "end": "0", "paragraphlabels": ["a"]}})
        )
    assert '"paragraphlabels"' in error.value.faults[0]
    said = []
    choice = task({"type": "choices", "value": {"choices": ["spam"]}})
    (row,) = studio(tmp_path, choice, warn=lambda *note: said.append(note))
    assert not row.entities
    assert [where for _, where in said] == ["tasks.json: task 1"]


def test_labels_on_several_texts_are_a_fault_until_those_on_one_are_left(tmp_path):
    title = {**result(0, 2, "三星", "name"), "to_name": "title"}
    with pytest.raises(DataError) as error:
        studio(tmp_path, task(FIRST, title))
    (fault,) = error.value.faults
    assert fault.startswith("tasks.json: task 1: its labels are on several texts, text, title; export")
    assert studio(tmp_path, task(FIRST))[0].entities == (COMPANY,)


@pytest.mark.parametrize("name", ["x", 3, 0, ["x", 1], {"x": 1}], ids=str)
def test_what_else_is_said_of_a_labelled_span_is_noted(tmp_path, name):
    """Whatever its id is."""
    notes, choice = [], {"id": name, "type": "choices", "value": {"start": 0, "end": 2, "choices": ["sure"]}}
    (row,) = studio(tmp_path, task({**FIRST, "id": name}, choice), note=lambda *note: notes.append(note[0]))
    assert row.entities == (COMPANY,)
    assert notes == ['results of type "choices"']
    with pytest.raises(DataError, match='a span of type "choices"'):
        studio(tmp_path, task(FIRST, {**choice, "id": "y"}))


def test_the_key_of_older_versions_is_read(tmp_path):
    old = task(FIRST)
    old["completions"] = old.pop("annotations")
    assert studio(tmp_path, old)[0].entities == (COMPANY,)
