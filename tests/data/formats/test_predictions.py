import json

import pytest
from rows import EIGHT, example

from qwen_ner.codec import Codec, Decoded, Problem
from qwen_ner.data.formats.errors import DataError
from qwen_ner.data.formats.predictions import read_predictions, submission_row
from qwen_ner.entities import CLUENER, Example, NerError
from qwen_ner.evaluation.report import write_report
from qwen_ner.evaluation.result import EvaluationResult
from qwen_ner.evaluation.table import Contract

GOLD = [Example(str(n), row.text, row.entities) for n, row in enumerate(EIGHT)]


def written(path, *lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def test_what_a_report_writes_is_read_back_whole(tmp_path):
    completions = ['{"company":["三星","苹果"],"怪":["北京"]}', '{"game":["魔'] + ["{}"] * 6
    predicted = [Codec(CLUENER).decode(row.text, text) for row, text in zip(GOLD, completions, strict=True)]
    contract = Contract("x", "own", "dev", 8, "f", "free")
    write_report(EvaluationResult(contract, GOLD, predicted, CLUENER), tmp_path)
    gold, found = read_predictions(tmp_path)
    assert gold == [Example(row.id, row.text, row.entities) for row in GOLD]
    for one, other in zip(found, predicted, strict=True):
        assert one.entities == other.entities
        assert set(one.surfaces) == set(other.surfaces)
        assert one.problems == other.problems
    assert found[1].problems == (Problem("not_json", '{"game":["魔'),)
    assert read_predictions(tmp_path / "predictions.jsonl", GOLD)[1] == found


@pytest.mark.parametrize("completion", [r'{"company":["三星","\ud83d"]}', r'{"\ud83d":["三星"]}', "三\ud83d"])
def test_half_a_character_in_an_answer_leaves_a_report_that_can_be_read(completion, tmp_path):
    predicted = [Codec(CLUENER).decode(GOLD[0].text, completion)]
    contract = Contract("x", "own", "dev", 1, "f", "free")
    write_report(EvaluationResult(contract, GOLD[:1], predicted, CLUENER), tmp_path)
    for path in tmp_path.iterdir():
        path.read_text(encoding="utf-8")
    (found,) = read_predictions(tmp_path)[1]
    assert found.problems == predicted[0].problems
    assert set(found.surfaces) == set(predicted[0].surfaces)


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-8-sig"])
def test_a_file_of_another_encoding_is_read_line_by_line(encoding, tmp_path):
    lines = [json.dumps(submission_row(row.id, row.entities, CLUENER), ensure_ascii=False) for row in GOLD]
    path = tmp_path / "saved_by_an_editor.json"
    path.write_text("\n".join(lines), encoding=encoding)
    _, found = read_predictions(path, GOLD)
    assert [decoded.entities for decoded in found] == [row.entities for row in GOLD]


def test_a_submission_is_read_by_the_ids_of_the_gold_rows(tmp_path):
    path = written(tmp_path / "s.json", *(submission_row(row.id, row.entities, CLUENER) for row in reversed(GOLD)))
    _, found = read_predictions(path, GOLD)
    assert [decoded.entities for decoded in found] == [row.entities for row in GOLD]


def test_a_surface_at_several_places_has_all_of_them_in_one_entry():
    twice = example("北京和北京", ("address", "北京"))
    both = Codec(CLUENER).decode(twice.text, '{"address":["北京"]}').entities
    assert submission_row("3", both, CLUENER) == {"id": 3, "label": {"address": {"北京": [[0, 1], [3, 4]]}}}
    with pytest.raises(NerError) as caught:
        submission_row("a", both, CLUENER)
    assert caught.value.value == "a"
    assert "test.json" in caught.value.remedy


def test_every_fault_is_told_at_once_with_its_line(tmp_path):
    path = written(
        tmp_path / "p.jsonl",
        {"id": "0", "text": "别的", "entities": []},
        {"id": "1", "entities": [{"label": "game", "start": 5, "end": 99}]},
        {"id": "2"},
        {"id": "3", "entities": [{"label": "name", "start": 0, "end": 2, "text": "李明"}]},
        {"id": "3", "entities": []},
        {"text": "无"},
        {"id": "4", "entities": [{"label": "name"}]},
        {"id": "5", "error": "could not be read"},
    )
    with pytest.raises(DataError) as caught:
        read_predictions(path, GOLD[:7])
    assert [fault.split(": ")[0] for fault in caught.value.faults] == [
        "p.jsonl:5", "p.jsonl:6", "p.jsonl:1", "p.jsonl:2", "p.jsonl:3", "p.jsonl:4", "p.jsonl:7",
        "row 6 (here:1) has no line; predict it, or write an empty one".replace("here:1", ""),
    ]  # fmt: skip
    assert "line 4's too" in caught.value.faults[0]
    assert 'holds "店长", the surface is "李明"' in caught.value.faults[5]


def test_lines_without_gold_ask_for_the_data(tmp_path):
    path = written(tmp_path / "p.jsonl", {"id": "0", "text": "无", "entities": []})
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    (fault,) = caught.value.faults
    assert fault.startswith("p.jsonl: no line ")
    assert "--data" in fault
    gold = {"id": "a", "text": "无", "entities": [], "gold": []}
    with pytest.raises(DataError) as caught:
        read_predictions(written(path, gold, {"id": "b", "text": "无", "entities": []}))
    assert [fault.partition(" lacks")[0] for fault in caught.value.faults] == ["p.jsonl:2: the line"]
    path = written(
        tmp_path / "p.jsonl", *({"id": str(n), "text": "无", "entities": []} for n in range(30)), {"text": 1}
    )
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    bad, fault = caught.value.faults
    assert bad.startswith("p.jsonl:31: ")
    assert fault.startswith("p.jsonl: no line ")
    assert "--data" in fault
    assert caught.value.rows == 31
    with pytest.raises(NerError, match="no lines") as caught:
        read_predictions(written(tmp_path / "empty.jsonl"))
    assert caught.value.place == str(tmp_path / "empty.jsonl")
    assert read_predictions(written(tmp_path / "e.jsonl", {"id": "0", "error": "x"}), GOLD[:1])[1] == [Decoded()]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"label": {"company": ["苹果"]}}, 'company "苹果" is not in the text'),
        ({"label": {"company": "三星"}}, 'label "company" holds "三星"'),
        ({"label": {"company": {"三星": [0, 1]}}}, "has the spans [0, 1]"),
        ({"label": {"company": {"三星": [[0]]}}}, "has the span"),
        ({"label": {"company": {"三星": [[0, "1"]]}}}, "not made of whole numbers"),
        ({"label": {"company": {"三星": [[0, 2]]}}}, "CLUENER's ends are inclusive"),
        ({"entities": [{"label": "", "start": 0, "end": 1}]}, 'the label is ""'),
        ({"entities": [{"label": 7, "start": 0, "end": 1}]}, "the label is 7"),
        ({"entities": [{"label": "name", "start": 0, "end": 1, "score": "high"}]}, 'the score "high"'),
        ({"entities": [], "ungrounded": ["三星"]}, '"ungrounded" is'),
        ({"entities": [], "ungrounded": None}, '"ungrounded" is null'),
        ({"entities": [], "problems": [{"kind": "odd", "value": ""}]}, '"problems" is'),
        ({"entities": [], "problems": ["odd"]}, '"problems" is'),
    ],
)
def test_a_line_of_another_shape_is_a_fault_with_its_place(tmp_path, line, said):
    with pytest.raises(DataError) as caught:
        read_predictions(written(tmp_path / "p.jsonl", {"id": "0", **line}), GOLD[:1])
    (fault,) = caught.value.faults
    assert fault.startswith("p.jsonl:1: ")
    assert said in fault


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([{"id": "1", "text": "x", "error": "too long"}], [("WARNING", "an error instead of entities for 1 row")]),
        ([{"id": "1", "entities": []}, {"id": "7"}, {"id": "8"}], [("INFO", "2 lines of no row")]),
        ([{"id": "1", "entities": []}], []),
    ],
)
def test_lines_that_predict_nothing_are_counted_and_said(tmp_path, caplog, more, said):
    """`predict` ends with an error for them, but its file outlives that."""
    caplog.set_level("INFO")
    read_predictions(written(tmp_path / "p.jsonl", {"id": "0", "entities": []}, *more), GOLD[:2])
    assert len(caplog.records) == len(said)
    for record, (level, words) in zip(caplog.records, said, strict=True):
        assert record.levelname == level
        assert words in record.getMessage()
