"""Laws of the audit: a planted fault comes first, clean data gives none, and what looks like a fault and is none stays out."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import EIGHT, example

from qwen_ner.data.analysis.audit import audit
from qwen_ner.data.analysis.corpus import Corpus, share_at_least
from qwen_ner.data.analysis.disagreement import Prediction, predictions_by_text
from qwen_ner.data.analysis.findings import write_findings
from qwen_ner.data.datasets import read_dataset
from qwen_ner.data.formats.errors import DataError
from qwen_ner.entities import Entity, NerError

SENTENCES = ["{}今天降价", "我们去了{}", "听说{}很好", "大家都爱{}。", "{}，谁去过", "先到{}再说"]


def rows_of(surface, label, count, first=0):
    """`count` rows, each with the surface annotated, in ever other surroundings."""
    texts = [SENTENCES[n % len(SENTENCES)].format(surface) for n in range(first, first + count)]
    return [example(text, (label, surface), id=str(first + n), source=f"f:{first + n}") for n, text in enumerate(texts)]


def clean(seed=0):
    rows = [*rows_of("西湖", "scene", 12), *rows_of("三星", "company", 12, 20), *rows_of("李明", "name", 12, 40)]
    random.Random(seed).shuffle(rows)
    return rows


def plain(finding):
    return finding.kind, finding.annotated, finding.suggested


def test_clean_data_gives_none():
    assert audit(clean()) == []
    assert audit(EIGHT) == []
    assert audit(read_dataset("sample", "train")) == []
    assert audit([]) == []


def test_an_omitted_surface_comes_first():
    rows = [*clean(), example("先去西湖吧", source="f:99"), example("三星在这里", ("name", "三星"))]
    first, second = audit(rows)
    assert plain(first) == ("omitted", None, Entity("scene", "西湖", 2, 4))
    assert (first.example.source, first.evidence) == ("f:99", "西湖: scene in 12 of 13 places")
    assert first.score == pytest.approx(share_at_least(12, 13))
    assert plain(second) == ("label", Entity("name", "三星", 0, 2), Entity("company", "三星", 0, 2))
    assert second.evidence == "三星: company in 12 of 13 places, name in 1"


@given(st.integers(0, 1000), st.sampled_from(["西湖", "三星", "李明"]))
def test_whatever_annotation_is_taken_away_is_found(seed, surface):
    rows = clean(seed)
    row = next(n for n, row in enumerate(rows) if row.entities[0].text == surface)
    taken = rows[row].entities[0]
    rows[row] = replace(rows[row], entities=())
    (finding,) = audit(rows)
    assert plain(finding) == ("omitted", None, taken)
    assert finding.row == row


@given(st.integers(0, 1000), st.integers(0, 35))
def test_whatever_label_is_changed_is_found(seed, row):
    rows = clean(seed)
    entity = rows[row].entities[0]
    wrong = replace(entity, label="book")
    rows[row] = replace(rows[row], entities=(wrong,))
    (finding,) = audit(rows)
    assert plain(finding) == ("label", wrong, entity)


def test_a_surface_inside_a_longer_one_or_an_entity_is_not_omitted():
    rows = [*clean(), *rows_of("西湖区", "address", 5, 60)]
    assert audit(rows) == []
    rows.append(example("那个西湖区在哪"))  # the longer one is what is omitted
    assert [plain(finding) for finding in audit(rows)] == [("omitted", None, Entity("address", "西湖区", 2, 5))]


def test_a_surface_across_words_is_not_omitted():
    # 登记 stands in rows of its own, and no entity ever begins or ends inside of it.
    rows = [*rows_of("记者", "position", 30), *(example(f"第{n}次登记") for n in range(20))]
    across, within = example("无住宅登记者可申请"), example("这时记者走了")
    found = {finding.example.text: finding.score for finding in audit([*rows, across, within])}
    assert across.text not in found
    assert found[within.text] > 0.75
    corpus = Corpus([*rows, across])
    assert corpus.split_by_label(len(rows), across.text.index("记者")) == pytest.approx(2 / 22)


def test_what_is_annotated_half_the_time_is_less_sure_than_what_nearly_always_is():
    half = [
        *rows_of("学生", "position", 9),
        *(example(text.format("学生"), id=f"h{n}") for n, text in enumerate(SENTENCES)),
    ]
    rows = [*clean(), *half, example("先去西湖吧")]
    scores = {finding.suggested.text: finding.score for finding in audit(rows)}
    assert scores["西湖"] > 0.6 > scores["学生"]
    assert all(0 <= finding.score <= 1 for finding in audit(rows))


def companies(count):
    """Each of `count` companies alone and as …公司, both annotated whole."""
    names = [f"{a}{b}" for a in "华东南北中" for b in "光明星海山"][:count]
    return [
        row
        for n, name in enumerate(names)
        for row in (*rows_of(name, "company", 2, 10 * n), *rows_of(f"{name}公司", "company", 1, 10 * n + 5))
    ]


def test_an_affix_left_outside_is_found():
    rows = companies(12)
    assert audit(rows) == []
    fault = example("昨天长虹公司说", ("company", "长虹"))
    (finding,) = audit([*rows, *rows_of("长虹", "company", 2, 900), fault])
    assert plain(finding) == ("boundary", Entity("company", "长虹", 2, 4), Entity("company", "长虹公司", 2, 6))
    assert finding.evidence == "company …公司: 公司 inside in 12 of 13 strings"


def test_an_affix_taken_inside_is_found():
    names = [f"{a}{b}" for a in "张王李赵陈" for b in "光明"]
    rows = [row for n, name in enumerate(names) for row in rows_of(name, "name", 2, 10 * n)]
    rows += [
        example(f"昨天{name}先生{then}", ("name", name))
        for name, then in zip(names, "说，来在。去要、！看", strict=True)
    ]
    assert audit(rows) == []
    (finding,) = audit([*rows, example("于是张光先生走了", ("name", "张光先生"))])
    assert plain(finding) == ("boundary", Entity("name", "张光先生", 2, 6), Entity("name", "张光", 2, 4))


def test_marks_around_an_entity_are_judged_by_what_others_have():
    titles = [f"{a}{b}记" for a in "春夏秋冬" for b in "雨雪风"]
    rows = [example(f"看了《{t}》很久", ("book", f"《{t}》"), id=t) for t in titles]
    without = example("又看《山海经》了", ("book", "山海经"))
    half = example("还有《论语》在", ("book", "《论语"))
    cut = example("西游记》真好看", ("book", "西游记》"))  # the text itself lacks the other half
    found = {plain(finding) for finding in audit([*rows, without, half, cut])}
    assert found == {
        ("boundary", Entity("book", "山海经", 3, 6), Entity("book", "《山海经》", 2, 7)),
        ("boundary", Entity("book", "《论语", 2, 5), Entity("book", "《论语》", 2, 6)),
    }


def test_the_order_of_rows_changes_nothing_but_row_numbers():
    rows = [*clean(), example("先去西湖吧", id="a"), example("三星在这里", ("name", "三星"), id="b")]
    told = [(f.example.id, plain(f), f.score) for f in audit(rows)]
    assert sorted(told, key=repr) == sorted(((f.example.id, plain(f), f.score) for f in audit(rows[::-1])), key=repr)
    assert audit(rows) == audit(tuple(rows))


ROWS = [
    example("三星在北京开会", ("address", "北京"), id="0"),
    example("她住在上海", ("address", "上海"), id="1"),
    example("去西湖玩", ("scene", "西湖"), id="2"),
]


def sure(label, text, start, score):
    return Entity(label, text, start, start + len(text), score)


def test_models_that_are_sure_of_something_else():
    model = [
        Prediction((sure("company", "三星", 0, 0.9), sure("address", "北京", 3, 0.99))),
        Prediction((sure("name", "上海", 3, 0.6),)),
        None,
    ]
    first, second = audit(ROWS, [model])
    assert plain(first) == ("predicted", None, Entity("company", "三星", 0, 2))
    assert (first.score, first.evidence) == (0.9, "1 of 1 models write it, with 0.90")
    assert plain(second) == ("predicted", Entity("address", "上海", 3, 5), Entity("name", "上海", 3, 5))


def test_models_that_agree_count_for_more_than_one():
    with_it = [Prediction((sure("company", "三星", 0, 0.9), sure("address", "北京", 3, 0.9))), None, None]
    without = [Prediction()] * 3
    assert audit(ROWS, [without]) == []
    both = {plain(f): f.score for f in audit(ROWS, [with_it, without])}
    assert both == {("predicted", None, Entity("company", "三星", 0, 2)): 0.45}
    none = {plain(f): f.score for f in audit(ROWS, [without] * 4)}
    assert none == {("predicted", row.entities[0], None): share_at_least(4, 4) for row in ROWS}


def line(row, entities):
    return json.dumps({"id": row.id, "text": row.text, "entities": entities}, ensure_ascii=False)


def test_predictions_are_found_by_their_text(tmp_path, caplog):
    path = tmp_path / "predicted.jsonl"
    samsung = {"label": "company", "text": "三星", "start": 0, "end": 2, "score": 0.9, "ambiguous": True}
    lines = [line(ROWS[2], []), line(ROWS[0], [samsung]), '{"id": "9", "error": "x"}', line(EIGHT[0], [])]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert predictions_by_text(path, ROWS) == [
        Prediction((sure("company", "三星", 0, 0.9),)),
        None,
        Prediction(),
    ]
    assert "2 lines belong to none of the rows or have an error; 1 rows have no line" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (line(ROWS[0], [{"label": "company", "text": "三星", "start": 0, "end": 2}]), "entities with scores"),
        (line(ROWS[0], [{"label": "x", "text": "三星", "start": 1, "end": 3, "score": 1}]), "[1, 3)"),
        ("no json", "is not JSON"),
    ],
)
def test_a_line_that_is_no_prediction_is_a_fault(tmp_path, text, said):
    path = tmp_path / "p.jsonl"
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        predictions_by_text(path, ROWS)
    (fault,) = error.value.faults
    assert fault.startswith("p.jsonl:1: ")
    assert said in fault


def test_predictions_of_other_texts_are_refused(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(line(EIGHT[0], []) + "\n", encoding="utf-8")
    with pytest.raises(NerError) as error:
        predictions_by_text(path, ROWS)
    assert (error.value.place, error.value.remedy) == (path, "predict the audited texts")


def test_findings_as_json(tmp_path):
    findings = audit([*clean(), example("先去西湖吧", id="a", source="f:99")])
    write_findings(tmp_path / "f.jsonl", findings)
    (row,) = map(json.loads, (tmp_path / "f.jsonl").read_text(encoding="utf-8").splitlines())
    assert row == {
        "id": "a",
        "source": "f:99",
        "kind": "omitted",
        "score": round(share_at_least(12, 13), 4),
        "text": "先去西湖吧",
        "annotated": None,
        "suggested": {"label": "scene", "text": "西湖", "start": 2, "end": 4},
        "evidence": "西湖: scene in 12 of 13 places",
    }


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_share_is_at_most_the_share_and_grows_with_evidence(part, more):
    whole = part + more
    assert 0 <= share_at_least(part, whole) <= (part / whole if whole else 0)
    assert share_at_least(part, whole) <= share_at_least(2 * part, 2 * whole)
    assert share_at_least(part, whole) <= share_at_least(part + 1, whole + 1)


def test_cluener_has_faults_of_every_kind(cluener_dir):
    rows = read_dataset("cluener", "train", data_dir=cluener_dir)
    findings = audit(rows)
    top = findings[:50]
    assert {finding.kind for finding in top} == {"omitted", "label", "boundary"}
    assert top[0].evidence == "记者: position in 510 of 511 places, name in 1"
    assert all(a.score >= b.score for a, b in pairwise(findings))
