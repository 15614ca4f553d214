"""Tables, text with its entities marked, and annotations beside the text say what our own rows say."""

import json
import re

import openpyxl
import pytest

from qwen_ner.data.datasets import has_split, read_dataset
from qwen_ner.data.formats.errors import DataError
from qwen_ner.data.formats.registry import open_source
from qwen_ner.entities import Entity, NerError

FIRST, SECOND, NONE = "阿司匹林可缓解头痛", "患者服用布洛芬后出现恶心", "今天天气很好"
DRUG, SYMPTOM = "药品", "症状"
WANTED = [
    (FIRST, (Entity(DRUG, "阿司匹林", 0, 4), Entity(SYMPTOM, "头痛", 7, 9))),
    (SECOND, (Entity(DRUG, "布洛芬", 4, 7), Entity(SYMPTOM, "恶心", 10, 12))),
    (NONE, ()),
]


def tags_of(text, entities):
    tags = ["O"] * len(text)
    for e in entities:
        tags[e.start : e.end] = [f"B-{e.label}", *[f"I-{e.label}"] * (e.end - e.start - 1)]
    return tags


PAIRS = [list(zip(text, tags_of(text, entities), strict=True)) for text, entities in WANTED]
TABLES = {
    "entities": [["text", "label", "start", "end", "entity"], [FIRST, DRUG, 0, 4, "阿司匹林"], [FIRST, SYMPTOM, 7, 9, "头痛"], [SECOND, DRUG, 4, 7, "布洛芬"], [SECOND, SYMPTOM, 10, 12, "恶心"], [NONE, "", "", "", ""]],
    "entities, inclusive": [["sentence", "type", "begin", "stop", "word"], [FIRST, DRUG, 0, 3, "阿司匹林"], [FIRST, SYMPTOM, 7, 8, "头痛"], [SECOND, DRUG, 4, 6, "布洛芬"], [SECOND, SYMPTOM, 10, 11, "恶心"], [NONE, "", "", "", ""]],
    "entities in Chinese": [["编号", "句子", "实体", "实体类型"], [1, FIRST, "阿司匹林", DRUG], [2, FIRST, "头痛", SYMPTOM], [3, SECOND, "布洛芬", DRUG], [4, SECOND, "恶心", SYMPTOM], [5, NONE, "", ""]],
    "json": [["text", "label"], [FIRST, '{"药品": ["阿司匹林"], "症状": ["头痛"]}'], [SECOND, '[{"type": "药品", "text": "布洛芬"}, {"type": "症状", "text": "恶心"}]'], [NONE, "{}"]],
    "a column a label": [["文本", DRUG, SYMPTOM], [FIRST, "阿司匹林", "头痛"], [SECOND, "布洛芬", "恶心"], [NONE, "", ""]],
    "characters": [["char", "tag"], *(row for pairs in PAIRS for row in [*map(list, pairs), ["", ""]])],
    "kaggle": [["Sentence #", "Word", "Tag"], *([f"Sentence: {n}" if at == 0 else "", *pair] for n, pairs in enumerate(PAIRS, 1) for at, pair in enumerate(pairs))],
}  # fmt: skip


def sheet(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)


def written(path, rows, encoding="utf-8", delimiter=","):
    cells = [[f'"{str(cell).replace(chr(34), chr(34) * 2)}"' if cell != "" else "" for cell in row] for row in rows]
    path.write_bytes("".join(delimiter.join(row) + "\r\n" for row in cells).encode(encoding))


def read(path, warned=None):
    note = (lambda what, where: warned.append(what)) if warned is not None else (lambda *_: None)
    return [
        (e.text, tuple(sorted(e.entities, key=lambda x: x.start)))
        for e in open_source(str(path), None).examples(warn=note)
    ]


@pytest.mark.parametrize("kind", ["utf-8", "utf-8-sig", "gbk", "semicolon", "xlsx"])
@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name, kind):
    path = tmp_path / ("train.xlsx" if kind == "xlsx" else "train.csv")
    if kind == "xlsx":
        sheet(path, TABLES[name])
    elif kind == "semicolon":
        written(path, TABLES[name], delimiter=";")
    else:
        written(path, TABLES[name], kind)
    assert read(path) == WANTED
    assert [(e.text, e.entities) for e in read_dataset(str(tmp_path), "train")] == read(path)


def test_several_surfaces_in_a_cell(tmp_path):
    text = "三星、苹果和阿里,巴巴在北京"
    written(tmp_path / "a.csv", [["text", "company"], [text, "三星、苹果；阿里,巴巴"], ["三星和苹果", "三星,苹果"]])
    found = [[e.text for e in entities] for _, entities in read(tmp_path / "a.csv")]
    assert found == [["三星", "苹果", "阿里,巴巴"], ["三星", "苹果"]]


def test_faults_of_a_table_have_the_number_of_its_row(tmp_path):
    rows = [*TABLES["entities"][:3], [SECOND, DRUG, 0, 2, "布洛芬"], [NONE, DRUG, 9, 19, ""]]
    sheet(tmp_path / "a.xlsx", rows)
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.xlsx")
    assert [fault.split(": ")[0] for fault in error.value.faults] == ["a.xlsx:4", "a.xlsx:5"]
    written(tmp_path / "b.csv", [["text", "label"], [FIRST, "药品"]])
    with pytest.raises(DataError, match=r"b\.csv:2: .*not JSON"):
        read(tmp_path / "b.csv")
    written(tmp_path / "c.csv", [["a", "b"], ["1", "2"]])
    with pytest.raises(NerError) as header:
        read(tmp_path / "c.csv")
    assert header.value.value == ["a", "b"]


def test_other_sheets_are_named_and_a_broken_workbook_is_an_error(tmp_path):
    book = openpyxl.Workbook()
    for row in TABLES["json"]:
        book.active.append(row)
    book.create_sheet("more").append(["text"])
    book.save(tmp_path / "a.xlsx")
    warned = []
    assert read(tmp_path / "a.xlsx", warned) == WANTED
    (told,) = warned
    assert told.startswith("sheets beside the one that is read, left out; to read one, save it as a file of its own")
    (tmp_path / "b.xlsx").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(NerError) as error:
        read(tmp_path / "b.xlsx")
    assert "CSV" in error.value.remedy


INLINE = {
    "boson.txt": f"{{{{{DRUG}:阿司匹林}}}}可缓解{{{{{SYMPTOM}:头痛}}}}\n患者服用{{{{{DRUG}:布洛芬}}}}后出现{{{{{SYMPTOM}:恶心}}}}\n{NONE}\n",
    "msra.txt": f"阿司匹林/{DRUG} 可缓解/o 头痛/{SYMPTOM}\n患者服用/o 布洛芬/{DRUG} 后出现 恶心/{SYMPTOM}\n{NONE}/o\n",
    "lines.txt": f"<{DRUG}>阿司匹林</{DRUG}>可缓解<{SYMPTOM}>头痛</{SYMPTOM}>\n患者服用<{DRUG}>布洛芬</{DRUG}>后出现<{SYMPTOM}>恶心</{SYMPTOM}>\n{NONE}\n",
    "doc.xml": f"<?xml version='1.0'?>\n<doc>\n<s><{DRUG}>阿司匹林</{DRUG}>可缓解<{SYMPTOM}>头痛</{SYMPTOM}></s>\n<s>患者服用<{DRUG}>布洛芬</{DRUG}>后出现<{SYMPTOM}>恶心</{SYMPTOM}></s>\n<s>{NONE}</s>\n</doc>\n",
    "enamex.txt": f'<ENAMEX TYPE="{DRUG}">阿司匹林</ENAMEX>可缓解<ENAMEX TYPE="{SYMPTOM}">头痛</ENAMEX>\n患者服用<ENAMEX TYPE="{DRUG}">布洛芬</ENAMEX>后出现<ENAMEX TYPE="{SYMPTOM}">恶心</ENAMEX>\n{NONE}\n',
}  # fmt: skip


@pytest.mark.parametrize("name", INLINE)
def test_marks_in_the_text(tmp_path, name):
    (tmp_path / name).write_text(INLINE[name], encoding="utf-8")
    assert read(tmp_path / name) == WANTED


def test_marks_nest_and_are_faults_where_they_do_not_close(tmp_path):
    (tmp_path / "a.xml").write_text("<org><loc>北京</loc>大学</org>在海淀\n<loc>北京\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.xml")
    assert [fault.split(": ")[0] for fault in error.value.faults] == ["a.xml:2"]
    (tmp_path / "a.xml").write_text("<org><loc>北京</loc>大学</org>在海淀\n", encoding="utf-8")
    assert {(e.label, e.text) for e in read(tmp_path / "a.xml")[0][1]} == {("org", "北京大学"), ("loc", "北京")}


@pytest.mark.parametrize(
    "element",
    ['<span class="{}">', '<entity name="{}">', '<mark id="7" data-entity="{}">', '<font color="red" type="{}">'],
)
def test_an_attribute_may_say_the_label(tmp_path, element):
    """It was lost, and all entities had the label `span`."""
    name = re.match(r"<(\w+)", element)[1]
    marked = f"{element.format(DRUG)}阿司匹林</{name}>可缓解{element.format(SYMPTOM)}头痛</{name}>\n"
    (tmp_path / "a.txt").write_text(marked, encoding="utf-8")
    assert read(tmp_path / "a.txt") == WANTED[:1]


def test_a_label_may_be_called_as_sentences_are_elsewhere(tmp_path):
    (tmp_path / "a.txt").write_text("<p>张三</p>在<l>北京</l>\n<p>李四</p><l>上海</l>\n", encoding="utf-8")
    assert labelled(tmp_path / "a.txt") == [
        ("张三在北京", {("p", "张三"), ("l", "北京")}),
        ("李四上海", {("p", "李四"), ("l", "上海")}),
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('<span class="ORG" role="x">三星</span>好', 'with "class" and "role"'),
        ("<ORG>三星</ORG>在北京<br/>", "<br> around nothing"),
        ('<text>三星好</text><entity type="ORG" start="0" end="2">三星</entity>', "beside the text"),
        ('<docs><doc><text>三星好</text><entity type="ORG">三星</entity></doc></docs>', "beside the text"),
        ('<entity type="ORG" start="0" end="2">三星</entity>', "beside the text"),
    ],
)
def test_elements_that_mark_no_text_are_faults(tmp_path, line, fault):
    (tmp_path / "a.xml").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=fault):
        read(tmp_path / "a.xml")


def labelled(path, warned=None):
    return [(text, {(e.label, e.text) for e in found}) for text, found in read(path, warned)]


def test_a_line_that_is_one_entity_keeps_it(tmp_path):
    """Only what is around most lines is around sentences."""
    lines = "<org><loc>北京</loc>大学</org>\n我在<org><loc>北京</loc>大学</org>读书\n"
    (tmp_path / "a.txt").write_text(lines, encoding="utf-8")
    pair = {("org", "北京大学"), ("loc", "北京")}
    assert labelled(tmp_path / "a.txt") == [("北京大学", pair), ("我在北京大学读书", pair)]
    lines = "<org><loc>北京</loc>银行</org>\n<org>三星</org>和<org>苹果</org>\n<org>三星</org>的<org>手机</org>\n<org>华为</org>\n"
    (tmp_path / "c.txt").write_text(lines, encoding="utf-8")
    assert labelled(tmp_path / "c.txt")[-1] == ("华为", {("org", "华为")})
    rows = ["<org><loc>北京</loc>大学</org>在海淀", "<loc>上海</loc>", "今天下雨"]
    (tmp_path / "b.xml").write_text("".join(f"<row>{row}</row>\n" for row in rows), encoding="utf-8")
    warned = []
    assert labelled(tmp_path / "b.xml", warned) == [
        ("北京大学在海淀", pair),
        ("上海", {("loc", "上海")}),
        ("今天下雨", set()),
    ]
    assert len(warned) == 1
    assert "<row>" in warned[0]


def test_signs_of_xml_in_a_text_are_read_as_they_stand(tmp_path):
    lines = "<公司>AT&T</公司>在<地点>北京</地点>\n<药品>胰岛素</药品>用于血糖<3.9或a<b的患者\n<公司>A&amp;B</公司>, 1 < 2\n"
    (tmp_path / "a.txt").write_text(lines, encoding="utf-8")
    assert labelled(tmp_path / "a.txt") == [
        ("AT&T在北京", {("公司", "AT&T"), ("地点", "北京")}),
        ("胰岛素用于血糖<3.9或a<b的患者", {("药品", "胰岛素")}),
        ("A&B, 1 < 2", {("公司", "A&B")}),
    ]
    (tmp_path / "b.txt").write_text("<公司>三星</公司>\n<公司>苹果\n", encoding="utf-8")
    with pytest.raises(DataError, match="&lt;"):
        read(tmp_path / "b.txt")


def test_words_in_brackets_are_no_notation_of_ours(tmp_path):
    """The People's Daily corpus: [中国/ns 政府/n]nt."""
    line = "19980101-01-001-000/m [中国/ns 政府/n]nt 顺利/ad 恢复/v 香港/ns 主权/n 。/w\n"
    (tmp_path / "a.txt").write_text(line * 20, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.txt")
    assert len(error.value.faults) == 20
    assert "中国政府/nt" in error.value.faults[0]
    (tmp_path / "a.txt").write_text("中国政府/nt 恢复/v 香港/ns 主权/n\n" * 20, encoding="utf-8")
    assert ("nt", "中国政府") in labelled(tmp_path / "a.txt")[0][1]
    (tmp_path / "b.txt").write_text("见/o [1]/o 三星/公司 [2]/o\n" * 20, encoding="utf-8")
    assert labelled(tmp_path / "b.txt")[0] == ("见[1]三星[2]", {("公司", "三星")})


def brat(folder, name="a"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text(f"{FIRST}\n{SECOND}\n{NONE}\n", encoding="utf-8")
    lines = [
        f"T1\t{DRUG} 0 4\t阿司匹林",
        f"T2\t{SYMPTOM} 7 9\t头痛",
        f"T3\t{DRUG} 14 17\t布洛芬",
        f"T4\t{SYMPTOM} 20 22\t恶心",
        "R1\tcures Arg1:T1 Arg2:T2",
    ]
    (folder / f"{name}.ann").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_brat(tmp_path):
    brat(tmp_path / "train")
    for path in ("train/a.ann", "train/a.txt", "train"):
        assert read(tmp_path / path) == WANTED
    assert has_split(str(tmp_path), "train")
    assert [(e.text, e.entities) for e in read_dataset(str(tmp_path), "train")] == WANTED
    brat(tmp_path / "train", "b")
    assert len(read(tmp_path / "train")) == 6
    (tmp_path / "train" / "b.ann").write_text("T1\t药品 0 4\t阿司匹\nT2\t药品 7 14\t头痛\n患者\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read(tmp_path / "train")
    assert len(error.value.faults) == 2


def test_documents_without_entities_are_texts_and_those_without_annotations_are_told(tmp_path):
    (tmp_path / "b.txt").write_text("华为在深圳\n", encoding="utf-8")
    (tmp_path / "b.ann").write_text("", encoding="utf-8")
    (tmp_path / "c.txt").write_text("今天下雨\n", encoding="utf-8")
    told = []
    examples = list(open_source(str(tmp_path), None).examples(warn=lambda *said: told.append(said)))
    assert [(e.text, e.entities) for e in examples] == [("华为在深圳", ())]
    assert [where for _, where in told] == ["c.txt"]
    (tmp_path / "b.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(NerError, match="no text"):
        read(tmp_path)
    (tmp_path / "b.txt").write_text("三星在北京\n", encoding="utf-8")
    (tmp_path / "b.ann").write_text("[@三星#公司*]在北京\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"b\.ann:1: .* cannot be read"):
        read(tmp_path)


def test_lines_of_a_document_that_an_entity_joins_are_one_text(tmp_path):
    text = "患者服用布\n洛芬后\n恶心\n\n今天好转\n"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "a.ann").write_text(
        "T1\t药品 4 5;6 8\t布 洛芬\nT2\t症状 10 12\t恶心\nT3\t状态 16 18\t好转\n", encoding="utf-8"
    )
    warned = []
    examples = list(open_source(str(tmp_path / "a.ann"), None).examples(warn=lambda *said: warned.append(said)))
    assert [(e.id, e.text, [(entity.label, entity.text, entity.start) for entity in e.entities]) for e in examples] == [
        ("a:1", "患者服用布\n洛芬后", [("药品", "布\n洛芬", 4)]),
        ("a:3", "恶心", [("症状", "恶心", 0)]),
        ("a:5", "今天好转", [("状态", "好转", 2)]),
    ]
    assert [where for what, where in warned if what.startswith("lines joined")] == ["a.txt:1"]
    assert not any("pieces" in what for what, _ in warned)


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\f"])
def test_characters_that_only_unicode_calls_line_ends_end_no_line_of_a_document(tmp_path, odd):
    (tmp_path / "a.txt").write_text(f"三星{odd}在北京\r\n今天下雨\r\n", encoding="utf-8", newline="")
    (tmp_path / "a.ann").write_text("T1\t公司 0 2\t三星\nT2\t地点 4 6\t北京\n", encoding="utf-8")
    warned = []
    examples = list(open_source(str(tmp_path / "a.ann"), None).examples(warn=lambda *said: warned.append(said)))
    assert [(e.id, e.text) for e in examples] == [("a:1", f"三星{odd}在北京"), ("a:2", "今天下雨")]
    assert [(e.text, e.start) for e in examples[0].entities] == [("三星", 0), ("北京", 4)]
    assert not any("joined" in what for what, _ in warned)


def test_a_surface_with_a_line_break_goes_on_in_the_next_line_and_one_that_is_given_twice_is_one(tmp_path):
    (tmp_path / "a.txt").write_text("停\n了一会儿，又走了", encoding="utf-8")
    (tmp_path / "a.ann").write_text(
        "T1\tTime 0 6\t停\n了一会儿\nT2\tPart 7 8\t又\nT3\tPart 7 8\t又\n#1\tAnnotatorNotes T1\t好\n", encoding="utf-8"
    )
    warned = []
    (example,) = open_source(str(tmp_path / "a.ann"), None).examples(warn=lambda *said: warned.append(said))
    assert [(e.label, e.text, e.start) for e in example.entities] == [("Time", "停\n了一会儿", 0), ("Part", "又", 7)]
    assert ("entities that are given twice, read as one", "a.ann:4") in warned


@pytest.mark.parametrize("before", ["T1\tcompany 0 2\t三星\nA1\tNegation T1", "#1\tAnnotatorNotes T1\tok", ""])
@pytest.mark.parametrize(
    "line", ["T2 address 3 5 北京", "t2\taddress 3 5\t北京", "T2  address 3 5\t北京", "address 3 5\t北京"]
)
def test_a_line_that_begins_no_annotation_is_not_lost(tmp_path, before, line):
    (tmp_path / "a.txt").write_text("三星在北京", encoding="utf-8")
    (tmp_path / "a.ann").write_text(f"{before}\n{line}\nT3\taddress 3 5\t北京\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.ann")
    place = f"a.ann:{before.count(chr(10)) + 2}: "
    assert [fault.split(";")[0] for fault in error.value.faults] == [
        f"{place}{json.dumps(line, ensure_ascii=False)} cannot be read"
    ]
    (tmp_path / "a.ann").write_text(f"{before}\nT2\taddress 3 5\t北京\n", encoding="utf-8")
    assert Entity("address", "北京", 3, 5) in read(tmp_path / "a.ann")[0][1]


def test_a_note_may_go_on_in_the_next_line_and_so_may_a_surface_that_is_not_whole(tmp_path):
    (tmp_path / "a.txt").write_text("三星\nB2 在北京", encoding="utf-8")
    (tmp_path / "a.ann").write_text(
        "#1\tAnnotatorNotes T1\tok\n2 of 3 agree\nT1\tname 0 5\t三星\nB2\n", encoding="utf-8"
    )
    warned = []
    assert read(tmp_path / "a.ann", warned) == [("三星\nB2 在北京", (Entity("name", "三星\nB2", 0, 5),))]
    assert "lines that begin no annotation, taken for a part of the note before them" in warned


def test_offsets_of_brat_may_count_a_crlf_as_one_character(tmp_path):
    """As where git wrote CRLF on Windows after the annotation."""
    (tmp_path / "a.txt").write_bytes("三星在北京\r\n苹果在上海\r\n小米\r\n".encode())
    lines = ["T1\tcompany 0 2\t三星", "T2\tcompany 6 8\t苹果", "T3\tplace 9 11\t上海", "T4\tboth 9 11;12 14\t上海 小米"]
    (tmp_path / "a.ann").write_bytes("\r\n".join([*lines, ""]).encode())
    warned = []
    assert [(text, [e.text for e in found]) for text, found in read(tmp_path / "a.ann", warned)] == [
        ("三星在北京", ["三星"]),
        ("苹果在上海\r\n小米", ["苹果", "上海", "上海\r\n小米"]),
    ]
    assert "offsets that count characters, CRLF as one, converted" in warned
    (tmp_path / "a.ann").write_bytes("\r\n".join([lines[0], "T2\tcompany 7 9\t苹果", ""]).encode())
    assert [[e.text for e in found] for _, found in read(tmp_path / "a.ann")] == [["三星"], ["苹果"], []]


def test_a_surface_that_differs_in_some_characters_is_a_fault_or_repaired(tmp_path):
    (tmp_path / "a.txt").write_text("美国作家司、汤达来了", encoding="utf-8")
    (tmp_path / "a.ann").write_text("T1\tPerson 0 8\t美国作家司・汤达\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.ann:1: .*--repair"):
        read(tmp_path / "a.ann")
    warned = []
    (example,) = open_source(str(tmp_path / "a.ann"), None).examples(
        repair=True, warn=lambda *said: warned.append(said)
    )
    assert [e.text for e in example.entities] == ["美国作家司、汤达"]
    ((what, where),) = warned
    assert "read by their offsets" in what
    assert "司・汤达" in where
    (tmp_path / "a.ann").write_text("T1\tPerson 1 3\t作家\n", encoding="utf-8")  # shifted
    with pytest.raises(DataError, match=r"a\.ann:1"):
        list(open_source(str(tmp_path / "a.ann"), None).examples(repair=True))


def test_a_fault_of_an_annotation_has_its_line_and_the_offsets_that_are_written_there(tmp_path):
    (tmp_path / "a.txt").write_text("今天\n阿司匹林可缓解头痛\n", encoding="utf-8")
    (tmp_path / "a.ann").write_text("T1\t症状 10 12\t头痛\nT2\t药品 3 6\t阿司匹林\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.ann")
    (fault,) = error.value.faults
    assert fault.startswith("a.ann:2: ")
    assert "[3, 6)" in fault


@pytest.mark.parametrize("line", ["T1\t药品 0 90\t阿", "T1\t药品 9 9\t", "T1\t药品 4 2\t阿", "T1\t药品 90 91\t阿"])
def test_an_entity_that_is_not_in_its_document_is_a_fault(tmp_path, line):
    (tmp_path / "a.txt").write_text("阿司匹林可缓解头痛", encoding="utf-8")
    (tmp_path / "a.ann").write_text(f"{line}\nT2\t症状 7 9\t头痛\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.ann")
    assert len(error.value.faults) == 1


def test_bytes_of_a_document_that_are_not_utf_8_are_a_fault(tmp_path):
    (tmp_path / "a.txt").write_bytes("阿司匹林可缓解头痛\n".encode() * 9 + b"\xff\n")
    (tmp_path / "a.ann").write_text("T1\t症状 7 9\t头痛\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.ann")
    assert [fault.split("; ")[0] for fault in error.value.faults] == [
        "a.txt:10: byte 0xff at offset 0 of the line is not UTF-8"
    ]


def test_the_lines_of_a_document_are_a_group_where_there_are_many(tmp_path):
    for n in range(9):
        brat(tmp_path / "train", f"d{n}")
    examples = list(open_source(str(tmp_path / "train"), None).examples())
    assert {example.group for example in examples} == {""}
    brat(tmp_path / "train", "d9")
    examples = list(open_source(str(tmp_path / "train"), None).examples())
    assert [example.group for example in examples] == [f"d{n // 3}" for n in range(30)]


ONE_A_LINE = {
    "slash": lambda text, tags: " ".join(f"{token}/{tag}" for token, tag in zip(text, tags, strict=True)),
    "slash, the letter last": lambda text, tags: " ".join(
        f"{token}/{'-'.join(reversed(tag.split('-')))}" for token, tag in zip(text, tags, strict=True)
    ),
    "text, tags": lambda text, tags: f"{text}\t{' '.join(tags)}",
    "characters, tags": lambda text, tags: f"{' '.join(text)}\t{' '.join(tags)}",
    "text, tags, blank lines": lambda text, tags: f"{text}\t{' '.join(tags)}\n",
}


@pytest.mark.parametrize("form", ONE_A_LINE)
def test_tagged_sentences_one_a_line(tmp_path, form):
    """They were read as one entity for each character, and as one token with one long label."""
    lines = [ONE_A_LINE[form](text, tags_of(text, entities)) for text, entities in WANTED]
    (tmp_path / "train.txt").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    assert read(tmp_path / "train.txt") == WANTED
    (tmp_path / "train.txt").write_text("\n".join(["没有标签", *lines, *lines]), encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.txt:1: 1 tokens have 0 tags"):
        read(tmp_path / "train.txt")


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("of", ["token", "sentence"])
def test_a_first_column_that_counts_is_not_the_text(tmp_path, first, of):
    lines = [
        "".join(f"{(at if of == 'token' else n) + first}\t{token}\t{tag}\n" for at, (token, tag) in enumerate(pairs))
        for n, pairs in enumerate(PAIRS)
    ]
    (tmp_path / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    assert read(tmp_path / "train.txt") == WANTED


def test_tags_beside_tokens(tmp_path):
    (tmp_path / "source.txt").write_text("".join(" ".join(text) + "\n" for text, _ in WANTED), encoding="utf-8")
    tags = [" ".join(tags_of(*row)) + "\n" for row in WANTED]
    (tmp_path / "target.txt").write_text("".join(tags), encoding="utf-8")
    assert read(tmp_path / "source.txt") == read(tmp_path / "target.txt") == WANTED
    (tmp_path / "target.txt").write_text(tags[0].split(" ", 1)[1] + tags[1] + tags[2], encoding="utf-8")
    with pytest.raises(DataError, match=r"source\.txt:1: 9 tokens have 8 tags"):
        read(tmp_path / "source.txt")


@pytest.mark.parametrize(
    "name", ["train.txt.bieos", "train.char.bmes", "weiboNER_2nd_conll.train", "my-train.csv", "ner.train.jsonl"]
)
def test_a_split_under_a_usual_name(tmp_path, name):
    text = (
        '{"text": "三星", "entities": []}\n'
        if name.endswith("jsonl")
        else "text,label\n三星,{}\n"
        if name.endswith("csv")
        else "三 B-A\n星 I-A\n"
    )
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "README.md").write_text("train", encoding="utf-8")
    assert [e.text for e in read_dataset(str(tmp_path), "train")] == ["三星"]
    assert not has_split(str(tmp_path), "dev")
    (tmp_path / f"train-2-{name}").write_text(text, encoding="utf-8")
    with pytest.raises(NerError) as error:
        read_dataset(str(tmp_path), "train")
    assert len(error.value.value) == 2


@pytest.mark.parametrize("name", ["reviews.jsonl", "data.csv", "data.xlsx", "rows.txt"])
@pytest.mark.parametrize("ending", ["_labels", "-tag"])
def test_a_table_or_rows_beside_others_are_no_tags(tmp_path, name, ending):
    """Annotators keep reviews.jsonl beside reviews_labels.jsonl."""
    stem, suffix = name.split(".")
    for path in (tmp_path / name, tmp_path / f"{stem}{ending}.{suffix}"):
        if suffix == "xlsx":
            sheet(path, TABLES["json"])
        elif suffix == "csv":
            written(path, TABLES["entities"])
        else:
            rows = ({"text": t, "label": {e.label: [e.text] for e in found}} for t, found in WANTED)
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        assert read(path) == WANTED


def test_a_byte_of_tags_that_is_not_utf_8_has_its_place(tmp_path):
    (tmp_path / "source.txt").write_bytes("三 星\n".encode() * 9 + b"\xff \xff\n")
    (tmp_path / "target.txt").write_text("B-A I-A\n" * 10, encoding="utf-8")
    with pytest.raises(NerError) as error:
        read(tmp_path / "source.txt")
    assert str(error.value.place).endswith("source.txt:10")
