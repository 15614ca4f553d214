"""Laws of offsets that count something else than characters: told for a whole file, converted, or warned of."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.data.formats import doccano, jsonl, label_studio
from qwen_ner.data.formats.errors import DataError
from qwen_ner.data.formats.mentions import EntityReader
from qwen_ner.data.formats.offsets import BYTES, CHARACTERS, INCLUSIVE, LATE, MAYBE_BYTES, UNCLEAR, UNITS, UTF16, Survey
from qwen_ner.entities import CLUENER

PARTS = ["😀", "\U0001f3d9\ufe0f", "𠮷", "\r\n", "\n", "  ", "在", "A1", "，"]
MENTIONS = ["张伟", "北京", "李 娜", "𠮷野家"]

COUNTED = {
    "characters": lambda before: len(before),
    "UTF-16 units": lambda before: len(before.encode("utf-16-le")) // 2,
    "characters, CRLF as one": lambda before: len(before.replace("\r\n", "\n")),
    "UTF-16 units, CRLF as one": lambda before: len(before.replace("\r\n", "\n").encode("utf-16-le")) // 2,
    "characters, a run of white space as one": lambda before: len(re.sub(r"\s+", " ", before)),
    "UTF-16 units, a run of white space as one": lambda before: (
        len(re.sub(r"\s+", " ", before).encode("utf-16-le")) // 2
    ),
}
"""How another tool counts the characters before a place."""


@st.composite
def annotated(draw):
    """A text, and the (start, end) of each mention in it."""
    text, spans = "", []
    for part in draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=6)):
        mention = draw(st.sampled_from(MENTIONS))
        text += part
        spans.append((len(text), len(text) + len(mention)))
        text += mention
    return text, spans


@given(annotated(), st.sampled_from(UNITS))
def test_each_unit_gives_back_the_characters(row, unit):
    text, spans = row
    count = COUNTED[unit.name]
    assert [unit.span(text, count(text[:start]), count(text[:end])) for start, end in spans] == spans


@given(st.lists(annotated(), min_size=1, max_size=3), st.sampled_from(UNITS))
def test_with_surfaces_a_file_is_read_right_whatever_its_offsets_count(rows, unit):
    """Or a unit that explains it as well leaves the same words."""
    survey, count = Survey(), COUNTED[unit.name]
    for text, spans in rows:
        for start, end in spans:
            survey.see("", text, count(text[:start]), count(text[:end]), (text[start:end],))
    found = survey.unit()
    for text, spans in rows:
        for start, end in spans:
            span = found.span(text, count(text[:start]), count(text[:end]))
            assert text[slice(*span)].split() == text[start:end].split()


def see(*rows):
    survey = Survey()
    for text, *spans in rows:
        for span in spans:
            survey.see("x:1", text, *span, ())
    return survey


def test_without_surfaces_utf16_is_told_where_characters_do_not_fit():
    assert see(("😀去上海", (3, 5)), ("🎉张伟在", (2, 4))).unit() == UTF16
    assert see(("😀去上海", (2, 4)), ("🎉张伟", (0, 1))).unit() == CHARACTERS  # half of a pair


@pytest.mark.parametrize(
    "row",
    [
        ("🎉🎉李娜去了上海外滩🏙️拍照", (4, 6), (8, 12)),  # else a span would end in a part of an emoji
        ("😀 张伟 在 北京 上班", (3, 5), (8, 10)),  # else spans would hold the space behind
        ("😀Google在北京", (2, 8)),  # else a word would be cut
        ("😀昨天，张伟，王强都在", (5, 7), (8, 10)),  # words begin and end at punctuation
    ],
)
def test_without_surfaces_utf16_is_told_where_it_gives_better_words(row):
    text, *spans = row
    assert see(row).unit() == UTF16
    inverse = [tuple(UTF16.span(text, *span)) for span in spans]
    again = see((text, *inverse))
    assert again.unit() == CHARACTERS
    assert UNCLEAR not in dict(again.warnings())


def test_without_surfaces_crlf_as_one_is_told_or_warned_of():
    text, crlf = "姓名:张伟\r\n单位:北京大学。\r\n地址:上海市", UNITS[2]
    assert see((text, (3, 5), (9, 13), (18, 21))).unit() == crlf
    right = see((text, (3, 5), (10, 14), (20, 23)))
    assert (right.unit(), list(right.warnings())) == (CHARACTERS, [])
    assert see(("😀" + text, (5, 7), (11, 15), (20, 23))).unit() == UNITS[3]
    open_ = see(("好\r\n昨天张伟在北京上班", (4, 6)), ("好\r\n昨天李娜在上海上班", (4, 6)))
    assert (open_.unit(), [what for what, _ in open_.warnings()]) == (CHARACTERS, [UNCLEAR])


def test_a_surface_that_other_rows_have_is_evidence():
    rows = [("王强在深圳", (0, 2), (3, 5)), ("😀王强在深圳上班", (2, 4), (5, 7))]
    assert see(*rows).unit() == UTF16
    assert see(rows[0], ("😀王强在深圳上班", (1, 3), (4, 6))).unit() == CHARACTERS


def test_what_cannot_be_told_is_a_warning_and_read_as_characters():
    survey = see(("😀昨天张伟在北京上班", (4, 6)), ("🎉昨天李娜在上海上班", (4, 6)))
    assert survey.unit() == CHARACTERS
    assert list(survey.warnings()) == [(UNCLEAR, "x:1")]
    assert not list(see(("张伟在北京😀", (0, 2))).warnings())  # nothing behind it


def test_one_odd_span_does_not_convert_a_file():
    plain = [("😀张伟在北京上班的时候", (1, 3), (4, 6))] * 50
    assert see(*plain, ("🎉小店好吃🍜了", (1, 6))).unit() == CHARACTERS


@pytest.mark.parametrize(
    ("rows", "suspected"),
    [
        ([("张三在北京", (0, 1), (3, 4)), ("李四去上海", (0, 1), (3, 4))], True),
        ([("阿司匹林可缓解头痛", (0, 3), (7, 8)), ("服用布洛芬后恶心", (2, 4), (6, 7))], True),
        ([("John met Ann in Rome.", (0, 3), (9, 11), (16, 19))], True),
        ([("看了《红楼梦》和《史记》", (2, 6), (8, 11)), ("去北京", (1, 2))], True),
        ([("张三在北京", (0, 2), (3, 5)), ("李四去上海", (0, 2), (3, 5))], False),
        ([("张伟去北京1", (0, 2)), ("李娜去北京2", (0, 2))], False),
        ([("肝、脑和肺", (0, 1), (2, 3), (4, 5))], False),
        ([("John met Ann in Rome.", (0, 4), (9, 12), (16, 20))], False),
    ],
)
def test_inclusive_ends_are_suspected(rows, suspected):
    assert (INCLUSIVE in dict(see(*rows).warnings())) == suspected


def bytes_of(row):
    text, *spans = row
    return text, *(tuple(len(text[:at].encode()) for at in span) for span in spans)


SENTENCES = [
    ("昨天三星电子在北京发布了新手机并且宣布明年会在上海发布手表", (2, 6), (7, 9), (23, 25)),
    ("张伟在Rome工作", (0, 2), (3, 7)),
    ("据《人民日报》报道，华为去年的收入继续增长", (2, 6), (10, 12)),
    ("李娜，34岁，在武汉大学任教", (0, 2), (8, 12)),
]


def test_bytes_are_told_where_all_spans_are_of_whole_characters():
    assert see(*map(bytes_of, SENTENCES)).unit() == BYTES
    assert not list(see(*map(bytes_of, SENTENCES)).warnings())
    assert see(*SENTENCES).unit() == CHARACTERS
    survey = Survey()
    survey.see("x:1", "三星在北京", 9, 15, ("北京",))
    assert survey.unit() == CHARACTERS, "one may be a fault"
    survey.see("x:2", "三星在北京", 0, 6, ("三星",))
    assert survey.unit() == BYTES


def test_too_few_offsets_to_prove_bytes_are_warned_of():
    """Such a dev split beside a train that counts bytes was read as characters without a word."""
    survey = see(*map(bytes_of, SENTENCES[:2]))
    assert survey.unit() == CHARACTERS
    assert MAYBE_BYTES in dict(survey.warnings())
    assert MAYBE_BYTES not in dict(see(*SENTENCES[:2]).warnings())


@pytest.mark.parametrize(
    "rows",
    [
        [(f"{name}，男，中国国籍", (0, 3)) for name in ("张小明", "李小红", "王小刚") * 9],
        [("Café Noir in Köln, from Anna and Max in Rome", *((at, at + 3) for at in (13, 24, 33, 40)))] * 50,
        [("Анна живёт в Риме", (0, 4), (13, 17)), ("Риме и Анна", (0, 4), (7, 11))] * 20,
        [*map(bytes_of, SENTENCES), ("三星在北京", (0, 2))],
    ],
    ids=["names", "latin", "cyrillic", "mixed"],
)
def test_characters_are_not_taken_for_bytes(rows):
    assert see(*rows).unit() != BYTES


def test_starts_from_1_are_suspected():
    rows = [
        (f"{a}{name}{b}", len(a), len(a) + 2)
        for a in ("", "昨天，", "我在")
        for name in ("北京", "上海", "深圳")
        for b in "的很。有"
    ]
    late, right = ([(text, (start + off, end)) for text, start, end in rows] for off in (1, 0))
    assert LATE in dict(see(*late).warnings())
    assert LATE not in dict(see(*right).warnings())
    assert LATE not in dict(see(*late[:9]).warnings())


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("format", [jsonl, doccano])
def test_what_is_converted_is_said_with_its_rows(tmp_path, format):
    bare, said = format is doccano, []
    spans = [[2, 4, "name"], [5, 7, "address"]]
    items = [{"start": s, "end": e, "label": label, "text": "😀 张伟在北京"[s:e]} for s, e, label in spans]
    annotation = {"label": spans} if bare else {"entities": items}
    path = write(tmp_path / "a.jsonl", {"text": "😀张伟在北京", **annotation})
    (row,) = format.read(path, CLUENER, warn=lambda *note: said.append(note))
    assert [(e.text, e.span) for e in row.entities] == [("张伟", (1, 3)), ("北京", (4, 6))]
    assert said == [("offsets that count UTF-16 units, converted", "a.jsonl:1")] * 2


def test_bytes_are_converted_and_said(tmp_path):
    rows, said = list(map(bytes_of, SENTENCES)), []
    path = write(tmp_path / "a.jsonl", *({"text": text, "label": [[*s, "x"] for s in spans]} for text, *spans in rows))
    read = doccano.read(path, warn=lambda *note: said.append(note))
    assert [[e.span for e in row.entities] for row in read] == [spans for _, *spans in SENTENCES]
    assert {what for what, _ in said} == {"offsets that count bytes of UTF-8, converted"}


def test_a_fault_has_no_remedy_that_makes_it_worse(tmp_path):
    wrong = {"text": "张伟在北京", "entities": [{"label": "name", "start": 1, "end": 3, "text": "张伟"}]}
    short = {"text": "张伟在北京", "entities": [{"label": "name", "start": 0, "end": 1, "text": "张伟"}]}
    for row, adds_one in ((wrong, False), (short, True)):
        with pytest.raises(DataError) as error:
            list(jsonl.read(write(tmp_path / "a.jsonl", row)))
        assert ("add 1 to each" in error.value.faults[0]) == adds_one


def studio(tmp_path, text, *spans, key="annotations", kind="labels", **more):
    results = [
        {"type": kind, "value": {"start": s, "end": e, "text": surface, kind: ["name"], **more}}
        for s, e, surface in spans
    ]
    (tmp_path / "t.json").write_text(json.dumps([{"data": {"text": text}, key: [{"result": results}]}]))
    said = []
    rows = list(label_studio.read(tmp_path / "t.json", warn=lambda *note: said.append(note)))
    return [(e.text, e.span) for row in rows for e in row.entities], said


@pytest.mark.parametrize(
    ("text", "span", "found", "unit"),
    [
        ("😀张伟在", (2, 4, "张伟"), (1, 3), "UTF-16 units"),
        ("姓名:\r\n张伟", (4, 6, "张伟"), (5, 7), "characters, CRLF as one"),
        ("😀姓名:\r\n张伟", (6, 8, "张伟"), (6, 8), None),
        ("😀\r\n张伟", (3, 5, "张伟"), (3, 5), None),
        ("a   b 张伟", (4, 6, "张伟"), (6, 8), "characters, a run of white space as one"),
        ("地址:北京市  朝阳区三里屯", (3, 11, "北京市 朝阳区"), (3, 11), None),
        ("张\n伟在", (0, 3, "张\\n伟"), (0, 3), None),
    ],
)
def test_label_studios_offsets_are_judged_by_its_surfaces(tmp_path, text, span, found, unit):
    ((_, at),), said = studio(tmp_path, text, span)
    assert at == found
    assert [what for what, _ in said if "converted" in what] == (
        [f"offsets that count {unit}, converted"] if unit else []
    )


def test_where_a_surface_stands_is_told_in_the_unit_of_the_file():
    faults = []
    for text in ("张伟在北京😀", "😀张伟在北京"):
        list(EntityReader(text, None, faults.append, unit=UTF16).at("name", 0, 2, ("北京",)))
    assert faults[0].endswith('the surface is "北京"; it stands at [3, 5); correct it')
    assert faults[1].endswith('the surface is "北京"; correct it'), "not where a character is not an offset"
