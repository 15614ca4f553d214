"""Which places are judged, and by what: passages that were annotated twice."""

import json

import pytest
from annotators import groups, shared_passages
from judge_audit import Suggestion, across, bases, findings, judge, read_findings, twins_of

from qwen_ner.data.analysis.audit import audit
from qwen_ner.data.analysis.findings import write_findings
from qwen_ner.entities import Entity, Example

TEXT = "他昨天在北京的三星公司上班"
CITY, FIRM, SHORT = (
    Entity("address", "北京", 4, 6),
    Entity("company", "三星公司", 7, 11),
    Entity("company", "三星", 7, 9),
)


def row(number, *entities, before=""):
    size = len(before)
    moved = (Entity(e.label, e.text, e.start + size, e.end + size) for e in entities)
    return Example(str(number), before + TEXT, tuple(moved), f"x:{number}")


def judged(rows, *places):
    twins = twins_of(groups(shared_passages([r.text for r in rows], 8)))
    found = judge(rows, twins, places)
    return found.places, round(found.differs[0], 1), round(found.agrees[0], 1)


def test_a_place_is_judged_by_the_entities_that_touch_it_in_the_other_row():
    rows = [row(0, CITY, SHORT), row(1, CITY, FIRM, before="听说")]
    assert judged(rows, Suggestion(0, SHORT, FIRM)) == (1, 100.0, 100.0)
    assert judged(rows, Suggestion(0, SHORT, None)) == (1, 100.0, 0.0)
    assert judged(rows, Suggestion(0, CITY, None)) == (1, 0.0, 0.0)
    assert judged(rows, Suggestion(0, CITY, CITY)) == (1, 0.0, 100.0)
    assert judged(rows, Suggestion(1, *(Entity("company", "三星公司", 9, 13),) * 2)) == (1, 100.0, 0.0)
    assert judged([rows[0], row(1, FIRM)], Suggestion(1, None, CITY)) == (1, 100.0, 100.0)


def test_several_twins_count_as_their_mean_and_a_place_without_one_not_at_all():
    rows = [row(0, CITY, SHORT), row(1, CITY, FIRM), row(2, CITY, SHORT), Example("3", "三星公司")]
    assert judged(rows, Suggestion(0, SHORT, FIRM), Suggestion(3, None, Entity("company", "三星公司", 0, 4))) == (
        1,
        50.0,
        50.0,
    )


def test_a_place_at_the_end_of_a_passage_is_not_judged():
    """The passage ends behind 三星公司: the other row's entity may go on."""
    rows = [Example("0", TEXT[:11] + "里", (FIRM,)), Example("1", TEXT[:11] + "的", (FIRM, CITY))]
    assert judged(rows, Suggestion(0, FIRM, None)) == (0, 0.0, 0.0)
    assert judged(rows, Suggestion(0, None, CITY)) == (1, 100.0, 100.0)


def test_the_base_is_every_entity_and_every_known_surface_without_one():
    rows = [row(0, CITY, FIRM), row(1, FIRM)]
    found = bases(rows)
    assert [(p.row, p.old) for p in found["every entity"]] == [(0, CITY), (0, FIRM), (1, FIRM)]
    assert [(p.row, p.old, p.new.span) for p in found["every unannotated surface"]] == [(1, None, (4, 6))]
    assert judged(rows, *found["every entity"])[:2] == (3, pytest.approx(33.3))


def test_a_split_is_audited_by_itself_and_judged_by_another():
    rows = [Example(str(n), f"第{n}次在北京开会", (Entity("address", "北京", 4, 6),)) for n in range(9)]
    omits = Example("9", "她去北京了")
    assert [f.row for f in findings([[omits], [*rows, omits]])] == [10]
    twins = twins_of(groups(shared_passages([row(0, CITY).text, row(1, FIRM).text, row(2, CITY).text], 8)))
    assert {r: [t.other for t in of] for r, of in twins.items()} == {0: [1, 2], 1: [0, 2], 2: [0, 1]}
    other = across(twins, [[row(0), row(1)], [row(2)]])
    assert {r: [t.other for t in of] for r, of in other.items()} == {0: [2], 1: [2], 2: [0, 1]}


def test_findings_of_a_file_are_those_of_audit(tmp_path):
    rows = [Example(str(n), f"第{n}次在北京开会", (Entity("address", "北京", 4, 6),)) for n in range(9)]
    rows.append(Example("9", "她去北京了"))
    write_findings(tmp_path / "f.jsonl", audit(rows))
    read, now = read_findings(tmp_path / "f.jsonl", rows), findings([rows])
    assert [(f.row, f.old, f.new, f.kind) for f in read] == [(f.row, f.old, f.new, f.kind) for f in now]
    assert len(json.loads((tmp_path / "f.jsonl").read_text(encoding="utf-8").splitlines()[0])) > 5
