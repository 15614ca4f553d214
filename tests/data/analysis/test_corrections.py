"""Laws of corrections: proposed only where models are sure, and applied once however often they are applied."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.data.analysis.corrections import SURE, Corrections, propose
from qwen_ner.data.analysis.disagreement import Prediction, predictions_by_text
from qwen_ner.data.analysis.findings import write_findings
from qwen_ner.data.formats.errors import DataError
from qwen_ner.entities import Entity, Example, NerError

TEXT = "三星在北京大学开会"
COMPANY, SCHOOL, CITY = (
    Entity("company", "三星", 0, 2),
    Entity("organization", "北京大学", 3, 7),
    Entity("address", "北京", 3, 5),
)


def row(*entities, id="0", text=TEXT):
    return Example(id, text, entities, f"here:{id}")


def found(*entities, **annotated):
    """A model's answer, each entity with its score, and its confidence in the labels it was asked for."""
    scores = {(e.label, e.text): annotated[e.label] for e in (COMPANY, SCHOOL, CITY) if e.label in annotated}
    return Prediction(tuple(Entity(e.label, e.text, *e.span, score) for e, score in entities), scores)


def proposed(example, *models):
    return [(f.kind, f.annotated, f.suggested, round(f.score, 4)) for f in propose([example], [[m] for m in models])]


def test_rows_of_one_text_are_doubted_each_in_its_own_annotation(tmp_path):
    """As of a file of `folds`, whose lines may come in any order."""
    wrong = Entity("company", "北京", 3, 5)
    rows = [row(wrong, id="a"), row(CITY, id="b")]
    lines = [
        {"text": TEXT, "entities": [{**place(CITY), "score": 0.98}], "annotated": asked}
        for asked in ([{**place(wrong), "score": 0.01}], [])
    ]
    for order in ([0, 1], [1, 0]):
        path = tmp_path / "folds.jsonl"
        path.write_text("".join(json.dumps(lines[n]) + "\n" for n in order), encoding="utf-8")
        examples = [rows[n] for n in order]
        (finding,) = propose(examples, [predictions_by_text(path, examples)])
        assert (finding.example.id, finding.kind, finding.annotated, finding.suggested) == ("a", "label", wrong, CITY)


def place(entity):
    return {"label": entity.label, "text": entity.text, "start": entity.start, "end": entity.end}


@pytest.mark.parametrize(
    ("annotated", "model", "wanted"),
    [
        ((), found((COMPANY, 0.9)), [("added", None, COMPANY, 0.9)]),
        ((), found((COMPANY, 0.89)), []),
        ((COMPANY,), found(company=0.0), []),
        ((COMPANY,), found(company=0.11), []),
        ((COMPANY,), found((COMPANY, 0.03)), []),
        (
            (COMPANY,),
            found((Entity("name", "三星", 0, 2), 0.95), company=0.02),
            [("label", COMPANY, Entity("name", "三星", 0, 2), 0.95)],
        ),
        ((COMPANY,), found((Entity("name", "三星", 0, 2), 0.95), company=0.2), []),
        (
            (Entity("address", "北京大", 3, 6),),
            found((CITY, 0.99)),
            [],
        ),
        ((CITY,), found((SCHOOL, 0.99), address=0.03), [("label and boundary", CITY, SCHOOL, 0.97)]),
        ((CITY,), found((SCHOOL, 0.6), address=0.03), []),
        ((CITY, COMPANY), found((SCHOOL, 0.6), address=0.03, company=0.04), []),
        ((COMPANY,), found((COMPANY, 0.99), (CITY, 0.5)), []),
    ],
    ids=["added", "not sure", "nothing in its place", "not doubted", "written", "label", "believed", "not asked", "both", "unsure of "
         "another", "unsure of one and nothing for the other", "right"],
)  # fmt: skip
def test_one_model(annotated, model, wanted):
    assert proposed(row(*annotated), model) == wanted


def test_an_entity_written_with_a_low_score_is_doubted_but_something_is_there():
    """The model's own score counts."""
    other = Entity("name", "三星", 0, 2)
    assert proposed(row(COMPANY), found((COMPANY, 0.05), (other, 0.95))) == [("label", COMPANY, other, 0.95)]


def test_one_entity_in_place_of_two_and_two_in_place_of_one():
    first, second = Entity("address", "北京", 3, 5), Entity("organization", "大学", 5, 7)
    merged = Prediction(
        (Entity("organization", "北京大学", 3, 7, 0.95),), {("address", "北京"): 0.0, ("organization", "大学"): 0.0}
    )
    assert proposed(row(first, second), merged) == [
        ("removed", first, None, 0.95),
        ("boundary", second, SCHOOL, 0.95),
    ]
    parted = found((first, 0.97), (second, 0.95), organization=0.0)
    assert proposed(row(SCHOOL), parted) == [
        ("label and boundary", SCHOOL, first, 0.97),
        ("added", None, second, 0.95),
    ]


def test_several_models_must_be_sure_together_and_none_may_believe():
    sure, unsure = found((COMPANY, 0.99)), found((COMPANY, 0.82))
    assert proposed(row(), sure, unsure) == [("added", None, COMPANY, 0.905)]
    assert proposed(row(), sure, sure, found()) == []
    assert proposed(row(COMPANY), found(company=0.0), found(company=0.3)) == []
    assert proposed(row(COMPANY), found(company=0.0), Prediction()) == [], "a model that was not asked"


def test_the_surest_come_first_and_of_equals_the_earlier_row():
    rows = [row(id=str(n)) for n in range(3)]
    findings = propose(rows, [[found((COMPANY, score)) for score in (0.92, 0.99, 0.92)]])
    assert [(finding.row, finding.score) for finding in findings] == [(1, 0.99), (0, 0.92), (2, 0.92)]


def test_predictions_that_do_not_say_what_they_think_of_the_annotation_are_refused():
    with pytest.raises(NerError) as error:
        propose([row(COMPANY)], [[Prediction()]])
    assert error.value.place == "--predictions"
    assert "qwen-ner folds" in error.value.remedy
    assert propose([row(COMPANY)], [[None]]) == []


LABELS = st.sampled_from(["company", "address", "name"])
SCORES = st.floats(0, 1)


@st.composite
def entities(draw):
    """Disjoint entities of TEXT."""
    edges = sorted(draw(st.sets(st.integers(0, len(TEXT)), max_size=6)))
    spans = list(zip(edges[::2], edges[1::2], strict=False))
    return tuple(Entity(draw(LABELS), TEXT[start:end], start, end) for start, end in spans)


@st.composite
def judged(draw):
    """A row, and models that each have an answer and an opinion of the annotation."""
    annotated = draw(entities())
    models = []
    for _ in range(draw(st.integers(1, 3))):
        answer = tuple(Entity(e.label, e.text, *e.span, draw(SCORES)) for e in draw(entities()))
        models.append(Prediction(answer, {(e.label, e.text): draw(SCORES) for e in annotated}))
    return row(*annotated), models


@given(judged())
def test_what_is_applied_twice_is_applied_once_and_the_row_stays_flat(tmp_path_factory, case):
    example, models = case
    findings = propose([example], [[model] for model in models])
    path = tmp_path_factory.mktemp("corrections") / "proposed.jsonl"
    write_findings(path, findings)
    if not findings:
        return
    corrections = Corrections(path)
    (once,) = corrections.apply([example])
    assert (corrections.done.total(), corrections.before.total()) == (len(findings), 0)
    (twice,) = corrections.apply([once])
    assert twice == once
    assert (corrections.done.total(), corrections.before.total()) == (0, len(findings))
    assert (once.id, once.text, once.source) == (example.id, example.text, example.source)
    assert all(a.end <= b.start for a, b in zip(once.entities, once.entities[1:], strict=False))
    touched = {e for f in findings for e in (f.annotated, f.suggested)}
    assert {e for e in once.entities if e not in touched} == {e for e in example.entities if e not in touched}


@given(judged())
def test_where_no_model_is_sure_nothing_is_proposed(case):
    example, models = case
    unsure = [
        Prediction(
            tuple(Entity(e.label, e.text, *e.span, e.score * 0.89) for e in model.entities),
            {pair: 0.11 + score * 0.89 for pair, score in model.annotated.items()},
        )
        for model in models
    ]
    assert propose([example], [[model] for model in unsure]) == []
    assert SURE == 0.9


def written(folder, *lines):
    path = folder / "f.jsonl"
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")
    return path


def line(old, new, **other):
    items = [e and {"label": e.label, "text": e.text, "start": e.start, "end": e.end} for e in (old, new)]
    return {"id": "0", "kind": "label", "text": TEXT, "annotated": items[0], "suggested": items[1]} | other


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (line(None, COMPANY, id="9"), "its row is not in the data"),
        (line(None, COMPANY, text="三星在这里"), "row 0 has another text"),
        (line(CITY, SCHOOL), "neither"),
    ],
)
def test_a_line_that_fits_no_row_is_an_error_with_its_place(tmp_path, line, said):
    path = written(tmp_path, line)
    with pytest.raises(DataError) as error:
        list(Corrections(path).apply([row(COMPANY)]))
    (fault,) = error.value.faults
    assert fault.startswith("f.jsonl:1: ")
    assert said in fault
    assert "; give the data that it was written for" in fault


@pytest.mark.parametrize(
    "line",
    [
        {"id": "0", "text": TEXT, "entities": []},
        line(None, None),
        line(None, COMPANY) | {"text": 3},
        line(None, COMPANY) | {"suggested": {"label": "company", "text": "三", "start": 0, "end": 2}},
        line(None, COMPANY) | {"suggested": "三星"},
        [],
    ],
)
def test_a_file_that_holds_no_findings_is_refused_with_the_line(tmp_path, line):
    with pytest.raises(DataError) as error:
        Corrections(written(tmp_path, line))
    assert error.value.faults[0].startswith("f.jsonl:1: ")


def test_an_empty_file_corrects_nothing(tmp_path):
    """Every proposal was rejected."""
    assert list(Corrections(written(tmp_path)).apply([row(COMPANY)])) == [row(COMPANY)]
