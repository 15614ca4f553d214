"""Sheets as annotators make them: merged cells, titles, columns that are no labels, cells that say that there is none."""

from datetime import datetime, time

import openpyxl
import pytest

from qwen_ner.data.convert import convert
from qwen_ner.data.datasets import read_dataset
from qwen_ner.data.formats.errors import LINE_BREAKS, DataError
from qwen_ner.data.formats.foreign.sheets import tables_of
from qwen_ner.data.formats.foreign.table_rows import DENIED, DOUBLE
from qwen_ner.data.formats.foreign.tables import MERGED
from qwen_ner.data.formats.jsonl import write as write_jsonl
from qwen_ner.data.formats.registry import open_source
from qwen_ner.entities import Entity, Example, NerError

TEXTS = [
    "五一去了故宫和天坛，人很多，烤鸭不错",
    "西湖边的楼外楼味道一般，不会再来了",
    "外滩的夜景很美，小笼包排了两个小时",
    "在成都吃火锅，顺便去看了大熊猫基地",
    "酒店前台态度很好，早餐也很丰富",
    "鼓浪屿的沙茶面值得一试，船票要早买",
]
SIGHTS = [["故宫", "天坛"], ["西湖"], ["外滩"], ["大熊猫基地"], [], ["鼓浪屿"]]
FOODS = [["烤鸭"], [], ["小笼包"], ["火锅"], [], ["沙茶面"]]
WANTED = [
    (text, {*(("景点", one) for one in sights), *(("美食", one) for one in foods)})
    for text, sights, foods in zip(TEXTS, SIGHTS, FOODS, strict=True)
]
COLUMNS = [[text, "、".join(s), "、".join(f)] for text, s, f in zip(TEXTS, SIGHTS, FOODS, strict=True)]
ENTITIES = [
    [text, *pair]
    for text, found in WANTED
    for pair in sorted(found, key=lambda pair: text.index(pair[1])) or [("", "")]
]
DATES = [f"2024-05-0{n}" for n in range(1, 7)]


def sheet(path, rows, *merged, more=()):
    """A workbook of these rows; `merged` are ranges, of which Excel keeps the first cell."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for cells in merged:
        book.active.merge_cells(cells)
    for title, rows_of in more:
        other = book.create_sheet(title)
        for row in rows_of:
            other.append(row)
    book.save(path)
    return path


def formatted(path, rows, form):
    """A workbook whose numbers Excel shows in this format."""
    book = openpyxl.load_workbook(sheet(path, rows))
    for cell in (cell for row in book.active for cell in row if isinstance(cell.value, (int, float))):
        cell.number_format = form
    book.save(path)
    return path


def csv(path, rows):
    path.write_text("".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, warned=None, **options):
    note = (lambda what, where: warned.append((what, where))) if warned is not None else (lambda *_: None)
    examples = open_source(str(path), None).examples(warn=note, **options)
    return [(e.text, {(entity.label, entity.text) for entity in e.entities}) for e in examples]


def faults(path, **options):
    with pytest.raises(DataError) as error:
        read(path, **options)
    return error.value.faults


def spans(rows, column, first=2):
    """The ranges of equal cells that follow each other in a column, as a person merges them."""
    at, found = first, []
    while at < first + len(rows):
        end = at
        while end + 1 < first + len(rows) and rows[end + 1 - first][0] == rows[at - first][0]:
            end += 1
        if end > at:
            found.append(f"{column}{at}:{column}{end}")
        at = end + 1
    return found


@pytest.mark.parametrize("name", ["group", "分组"])
def test_a_column_of_groups_is_theirs(tmp_path, name):
    groups = ["张三", "张三", "李四", "李四", "", "7"]
    path = csv(
        tmp_path / "a.csv",
        [["文本", "景点", "美食", name], *([*row, g] for row, g in zip(COLUMNS, groups, strict=True))],
    )
    warned = []
    assert read(path, warned) == WANTED
    assert [example.group for example in open_source(str(path), None).examples()] == groups
    assert [(what, where) for what, where in warned if "group" in what] == [
        ("rows without a group, though others have one", "a.csv:6")
    ]
    rows = [[*row, g] for row, g in zip(ENTITIES, "11122223334", strict=True)]
    path = csv(tmp_path / "b.csv", [["文本", "标签", "实体", name], *rows])
    assert read(path) == WANTED
    found = {example.text: example.group for example in open_source(str(path), None).examples()}
    assert found == {text: next(row[3] for row in rows if row[0] == text) for text in found}


@pytest.mark.parametrize("name", ["id", "编号"])
def test_a_column_of_ids_is_theirs_if_each_row_has_one_of_its_own(tmp_path, name):
    for ids, kept in (("abcdef", True), ("abcdea", False)):
        path = csv(
            tmp_path / "a.csv", [[name, "文本", "景点", "美食"], *zip(ids, *zip(*COLUMNS, strict=True), strict=True)]
        )
        warned = []
        assert read(path, warned) == WANTED
        found = [example.id for example in open_source(str(path), None).examples()]
        assert found == (list("abcdef") if kept else [str(n) for n in range(2, 8)])
        assert any("ids" in what for what, _ in warned) is not kept
    rows = [["7", *ENTITIES[0]], *(["", *row] for row in ENTITIES[1:])]
    assert read(csv(tmp_path / "b.csv", [[name, "文本", "标签", "实体"], *rows])) == WANTED


def test_a_column_of_remarks_is_left_out_if_the_labels_are_named(tmp_path):
    remarks = ["故宫", "", "待复核", "", "", ""]
    rows = [["文本", "景点", "美食", "备注"], *([*row, one] for row, one in zip(COLUMNS, remarks, strict=True))]
    path = csv(tmp_path / "a.csv", rows)
    (fault,) = faults(path)
    assert fault.startswith("a.csv:4: 备注 ")
    assert "delete its column" in fault
    assert "--labels" in fault
    warned = []
    assert read(path, warned, keep={"景点", "美食"}) == WANTED
    assert any("does not name" in what and "备注" in where for what, where in warned)


@pytest.mark.parametrize(
    ("first", "last", "remedy"), [(1, 1, "subtract 1 from each start and end"), (1, 0, "subtract 1 from each start")]
)
def test_offsets_that_count_from_one_are_told_so(tmp_path, first, last, remedy):
    rows = [
        [text, label, one, text.index(one) + first, text.index(one) + len(one) + last]
        for text, label, one in ENTITIES
        if one
    ]
    found = faults(csv(tmp_path / "a.csv", [["text", "label", "entity", "start", "end"], *rows]))
    assert len([fault for fault in found if remedy in fault]) > len(rows) / 2


def test_a_label_may_be_called_group(tmp_path):
    path = csv(tmp_path / "a.csv", [["text", "group", "美食"], *COLUMNS])
    assert {label for _, found in read(path) for label, _ in found} == {"group", "美食"}


def test_a_merged_text_is_that_of_all_its_rows(tmp_path):
    path = sheet(tmp_path / "a.xlsx", [["文本", "标签", "实体"], *ENTITIES], *spans(ENTITIES, "A"))
    assert read(path) == WANTED


def test_a_merged_label_is_that_of_all_its_rows(tmp_path):
    rows = [["文本", "标签", "实体"], [TEXTS[0], "景点", "故宫"], [TEXTS[0], "", "天坛"], [TEXTS[0], "美食", "烤鸭"]]
    assert read(sheet(tmp_path / "a.xlsx", rows, "A2:A4", "B2:B3")) == WANTED[:1]


def test_a_merged_text_with_a_column_a_label_is_one_row(tmp_path):
    rows = [["文本", "景点", "美食"], [TEXTS[0], "故宫", "烤鸭"], ["", "天坛", ""], *COLUMNS[1:]]
    assert read(sheet(tmp_path / "a.xlsx", rows, "A2:A3")) == WANTED


def test_what_a_csv_keeps_of_a_merged_cell_belongs_to_the_text_above(tmp_path):
    rows = [[text if n == 0 or ENTITIES[n - 1][0] != text else "", *rest] for n, (text, *rest) in enumerate(ENTITIES)]
    warned = []
    assert read(csv(tmp_path / "a.csv", [["文本", "标签", "实体"], *rows]), warned) == WANTED
    assert [where for _, where in warned] == ["a.csv:3", "a.csv:4", "a.csv:7", "a.csv:9", "a.csv:12"][: len(warned)]
    assert len({what for what, _ in warned}) == 1
    assert len(warned) == len(ENTITIES) - len(TEXTS)


def test_each_row_without_a_text_is_told_at_once(tmp_path):
    """What the text above does not hold is not its entity."""
    rows = [["文本", "标签", "实体"], [TEXTS[0], "景点", "故宫"], ["", "景点", "长城"], ["", "美食", "豆汁"]]
    assert [fault.split(": ")[0] for fault in faults(csv(tmp_path / "a.csv", rows))] == ["a.csv:3", "a.csv:4"]
    rows = [["文本", "标签", "开始", "结束"], [TEXTS[0], "景点", 4, 6], ["", "景点", 7, 9], ["", "景点", 1, 2]]
    assert [fault.split(": ")[0] for fault in faults(csv(tmp_path / "a.csv", rows))] == ["a.csv:3", "a.csv:4"]


def test_rows_with_a_number_alone_are_left_out_and_counted(tmp_path):
    rows = [["序号", "文本", "景点", "美食"], *([n, *row] for n, row in enumerate(COLUMNS, 1)), [7, "", "", ""]]
    warned = []
    assert read(sheet(tmp_path / "a.xlsx", rows), warned) == WANTED
    assert [where for _, where in warned] == ["a.xlsx:8"]


def test_columns_that_are_no_labels_are_left_out_and_told(tmp_path):
    rows = [["文本", "景点", "日期", "美食", "标注人", "备注", "评分"]]
    for n, (text, sights, foods) in enumerate(COLUMNS):
        rows.append([text, sights, DATES[n], foods, "王芳", "不太确定" if n == 2 else "", n % 5 + 1])
    warned = []
    assert read(sheet(tmp_path / "a.xlsx", rows), warned) == WANTED
    assert [where.rpartition(": ")[2] for _, where in warned] == ["日期", "标注人", "备注", "评分"]
    assert len({what for what, _ in warned}) == 1


def test_a_date_that_stands_in_the_texts_is_a_label(tmp_path):
    rows = [["文本", "日期"], ["五月一日开馆", "五月一日"], ["三月五日闭馆", "三月五日"]]
    assert read(sheet(tmp_path / "a.xlsx", rows))[0] == ("五月一日开馆", {("日期", "五月一日")})


def test_a_column_that_may_be_a_label_is_one_fault_with_its_rows(tmp_path):
    """Cells of a few rows are in their texts: typing errors, or no label? It says so once, not row by row."""
    rows = [["文本", "景点", "印象"], *([t, s, "很" if n < 2 else "棒极了"] for n, (t, s, _) in enumerate(COLUMNS))]
    path = sheet(tmp_path / "a.xlsx", rows)
    (fault,) = faults(path)
    assert fault.startswith("a.xlsx:1: ")
    assert '"印象"' in fault
    assert "rows 2, 4, 5, 6, 7" in fault or "rows 3, 4, 5, 6, 7" in fault or "rows 4, 5, 6, 7" in fault
    assert "labels" in fault
    only = [(text, {pair for pair in found if pair[0] == "景点"}) for text, found in WANTED]
    assert read(path, keep=frozenset({"景点"})) == only
    assert len(faults(path, keep=frozenset({"景点", "印象"}))) >= 4, "a label that is asked for is checked row by row"


def test_the_labels_that_are_kept_tell_columns(tmp_path):
    rows = [["文本", "景点", "印象"], *([t, s, "棒" if n else "人很多"] for n, (t, s, _) in enumerate(COLUMNS))]
    path = sheet(tmp_path / "train.xlsx", rows)
    from qwen_ner.data.notes import Watch

    read_rows = read_dataset(str(path), "train", watch=Watch(keep=frozenset({"景点"})))
    assert {entity.label for row in read_rows for entity in row.entities} == {"景点"}


def test_cells_that_say_none_are_read_as_none_and_counted_in_one_line(tmp_path):
    """无 is in the text of row 2, and no entity there."""
    rows = [
        ["文本", "景点", "美食"],
        ["无聊的一天，故宫关门", "故宫", "无"],
        [TEXTS[1], "西湖", "/"],
        [TEXTS[4], "N/A", "-"],
    ]
    warned = []
    assert [found for _, found in read(csv(tmp_path / "a.csv", rows), warned)] == [
        {("景点", "故宫")},
        {("景点", "西湖")},
        set(),
    ]
    assert [where for _, where in warned] == ["a.csv:2 无", "a.csv:3 /", "a.csv:4 N/A", "a.csv:4 -"]
    assert len({what for what, _ in warned}) == 1
    rows = [["文本", "标签", "实体"], [TEXTS[1], "景点", "西湖"], [TEXTS[4], "无", "无"]]
    assert [found for _, found in read(csv(tmp_path / "b.csv", rows))] == [{("景点", "西湖")}, set()]
    rows = [["文本", "标签"], [TEXTS[1], '{""景点"": [""西湖""]}'], [TEXTS[4], "无"]]
    assert [found for _, found in read(csv(tmp_path / "c.csv", rows))] == [{("景点", "西湖")}, set()]


def test_an_entity_without_a_label_is_a_fault(tmp_path):
    rows = [["文本", "标签", "实体"], [TEXTS[1], "", "西湖"], [TEXTS[2], "景点", "外滩"], [TEXTS[3], "无", "火锅"]]
    assert [fault.split(": ")[0] for fault in faults(csv(tmp_path / "a.csv", rows))] == ["a.csv:2", "a.csv:4"]


@pytest.mark.parametrize("name", ["点评内容", "评论", "用户评论内容", "正文（脱敏）", "Review text", "笔记"])
def test_the_column_of_the_texts(tmp_path, name):
    """By a part of its name, or (笔记) as the long one that holds what the others name."""
    rows = [["日期", name, "景点", "美食", "评论时间"], *([DATES[n], *row, DATES[n]] for n, row in enumerate(COLUMNS))]
    assert read(sheet(tmp_path / "a.xlsx", rows)) == WANTED


def test_two_columns_that_may_hold_the_texts_are_refused(tmp_path):
    rows = [["评论内容", "回复内容", "景点"], *([t, t[::-1], s] for t, s, _ in COLUMNS)]
    with pytest.raises(NerError) as error:
        read(sheet(tmp_path / "a.xlsx", rows))
    assert error.value.value == ["评论内容", "回复内容"]
    assert '"text"' in error.value.remedy


@pytest.mark.parametrize("form", ["columns", "entities"])
def test_rows_above_the_header(tmp_path, form):
    rows = COLUMNS if form == "columns" else ENTITIES
    header = ["点评内容", "景点", "美食"] if form == "columns" else ["点评内容", "标签", "实体"]
    above = [["旅游点评标注表（第一批）", "", ""], ["", "", ""]]
    warned = []
    assert read(sheet(tmp_path / "a.xlsx", [*above, header, *rows], "A1:C1"), warned) == WANTED
    assert [where for _, where in warned] == ["a.xlsx:1"]


def test_a_title_of_several_cells_is_not_the_header(tmp_path):
    rows = [
        ["项目：旅游", "日期：2024-05", "", ""],
        ["序号", "点评内容", "景点", "美食"],
        *([n, *row] for n, row in enumerate(COLUMNS, 1)),
    ]
    assert read(sheet(tmp_path / "a.xlsx", rows)) == WANTED
    rows = [["点评", "景点", "美食"], ["又是内容", "内容", ""], *COLUMNS]
    found = read(sheet(tmp_path / "b.xlsx", rows))
    assert found == [("又是内容", {("景点", "内容")}), *WANTED], "a row below the header, whatever it says"


def test_a_table_without_rows_is_an_error(tmp_path):
    with pytest.raises(NerError) as error:
        read(sheet(tmp_path / "a.xlsx", [["文本", "景点", "美食"]]))
    assert error.value.place == tmp_path / "a.xlsx"
    assert "JSON" not in error.value.remedy


def test_a_header_of_two_rows(tmp_path):
    rows = [
        ["序号", "点评内容", "实体", ""],
        ["", "", "景点", "美食"],
        *([n, *row] for n, row in enumerate(COLUMNS, 1)),
    ]
    assert read(sheet(tmp_path / "a.xlsx", rows, "A1:A2", "B1:B2", "C1:D1")) == WANTED


def test_a_sheet_of_instructions_is_not_the_table(tmp_path):
    guide = [["标注说明", ""], ["1", "每个实体写原文"], ["2", "多个实体用顿号隔开"]]
    path = sheet(tmp_path / "a.xlsx", guide, more=[("标注", [["文本", "景点", "美食"], *COLUMNS])])
    warned = []
    assert read(path, warned) == WANTED
    assert [where for _, where in warned] == ["a.xlsx: Sheet, 3 rows"]


def test_surfaces_of_one_cell(tmp_path):
    text = "故宫、天坛，AC/DC和Hard Rock在北京"
    cells = ["故宫、天坛", "故宫;天坛", "故宫；天坛", "故宫|天坛", "故宫\n天坛", "故宫,天坛", "故宫，天坛", "故宫/天坛"]
    rows = [["文本", "景点"], *([text, cell] for cell in cells), [text, "AC/DC、Hard Rock"]]
    found = [
        {surface for _, surface in pairs}
        for _, pairs in read(sheet(tmp_path / "a.xlsx", [*rows[:2], [" "], *rows[2:3]]))
    ]
    assert found == [{"故宫", "天坛"}] * 2
    for cell in cells:
        assert [pairs for _, pairs in read(sheet(tmp_path / "b.xlsx", [rows[0], [text, cell]]))] == [
            {("景点", "故宫"), ("景点", "天坛")}
        ]
    (fault,) = faults(sheet(tmp_path / "d.xlsx", [rows[0], [text, "故宫 天坛"]]))
    assert fault.startswith("d.xlsx:2: ")
    assert '"故宫 天坛"' in fault
    assert [pairs for _, pairs in read(sheet(tmp_path / "c.xlsx", [rows[0], rows[-1]]))] == [
        {("景点", "AC/DC"), ("景点", "Hard Rock")}
    ]


def test_two_columns_of_one_name_are_one_label(tmp_path):
    rows = [["文本", "景点", "景点"], [TEXTS[0], "故宫", "天坛"]]
    assert read(sheet(tmp_path / "a.xlsx", rows)) == [(TEXTS[0], {("景点", "故宫"), ("景点", "天坛")})]


def test_a_column_without_a_name_that_holds_surfaces_is_a_fault(tmp_path):
    (fault,) = faults(sheet(tmp_path / "a.xlsx", [["文本", "景点", ""], *COLUMNS]))
    assert fault.startswith("a.xlsx:1: ")
    assert "C" in fault


def test_a_column_named_type_may_be_beside_columns_of_labels(tmp_path):
    """It holds no JSON, so it is not the annotation."""
    rows = [["文本", "类型", "景点", "美食"], *([t, "好评", s, f] for t, s, f in COLUMNS)]
    assert read(sheet(tmp_path / "a.xlsx", rows)) == WANTED


@pytest.mark.parametrize("names", [("实体", "分类"), ("提及", "分类"), ("提及", "类型"), ("提及", "标签")])
def test_surfaces_whose_labels_may_be_in_another_column_are_not_taken_for_one_label(tmp_path, names):
    rows = [["点评内容", *names], *([text, surface, label] for text, label, surface in ENTITIES)]
    path = sheet(tmp_path / "a.xlsx", rows, *spans(ENTITIES, "A"))
    (fault,) = faults(path)
    assert fault.startswith("a.xlsx:1: ")
    assert all(f'"{name}"' in fault for name in (*names, "label", "entity"))
    rows[0] = ["点评内容", "entity", "label"]
    assert read(sheet(path, rows, *spans(ENTITIES, "A"))) == WANTED


def paired(*cells):
    return [["文本", "实体"], *([text, cell] for text, cell in zip(TEXTS, cells, strict=False))]


@pytest.mark.parametrize("colon", [":", "：", ": "])
@pytest.mark.parametrize("between", ["；", "\n", "，", ","])
@pytest.mark.parametrize("name", ["实体", "标签", "标注结果"])
def test_a_cell_may_name_each_label_and_its_surfaces(tmp_path, colon, between, name):
    cells = [
        between.join(f"{label}{colon}{'、'.join(found)}" for label, found in (("景点", s), ("美食", f)) if found)
        for s, f in zip(SIGHTS, FOODS, strict=True)
    ]
    warned = []
    assert read(sheet(tmp_path / "a.xlsx", [["文本", name], *paired(*cells)[1:]]), warned) == WANTED
    assert not warned


def test_what_a_cell_of_labels_and_surfaces_says_wrong_is_a_fault_of_its_row(tmp_path):
    found = faults(
        sheet(tmp_path / "a.xlsx", paired("景点:故宫", "景点:西胡", "小笼包", "美食:火锅", "无", "景点:鼓浪屿;"))
    )
    assert [fault.partition(": ")[0] for fault in found] == ["a.xlsx:3", "a.xlsx:4"]
    assert '"西胡"' in found[0]
    assert found[1].startswith('a.xlsx:4: the label is ""')


def test_cells_with_a_colon_of_their_own_name_no_labels(tmp_path):
    texts = ["末班车10:30开，票价20元", "热线:400很难打", "早上8:15的船"]
    rows = [["文本", "时间"], [texts[0], "10:30"], [texts[1], ""], [texts[2], "8:15"]]
    assert [pairs for _, pairs in read(sheet(tmp_path / "a.xlsx", rows))] == [
        {("时间", "10:30")},
        set(),
        {("时间", "8:15")},
    ]


def test_a_column_of_labels_and_surfaces_goes_on_in_the_rows_below(tmp_path):
    rows = [["文本", "实体"], [TEXTS[0], "景点:故宫"], ["", "景点:天坛;美食:烤鸭"], [TEXTS[1], "景点:西湖"]]
    assert read(csv(tmp_path / "a.csv", rows)) == WANTED[:2]


def test_a_label_that_a_cell_of_its_column_repeats_is_told(tmp_path):
    (fault,) = faults(
        sheet(tmp_path / "a.xlsx", [["文本", "景点"], [TEXTS[1], "西湖"], [TEXTS[0], "景点:故宫"], [TEXTS[2], "外滩"]])
    )
    assert fault.startswith("a.xlsx:3: ")
    assert '"景点:故宫"' in fault


def test_rows_of_a_text_that_comes_again_further_down_are_told(tmp_path):
    """A row an entity: what follows directly is the next entity of the text, what comes later may be another annotation."""
    text, other = TEXTS[0], TEXTS[1]
    rows = [[text, "景点", "故宫"], [text, "景点", "天坛"], [other, "景点", "西湖"], [text, "美食", "烤鸭"]]
    warned = []
    assert read(csv(tmp_path / "a.csv", [["文本", "标签", "实体"], *rows]), warned) == WANTED[:2]
    assert [where for _, where in warned] == ["a.csv:5"]


def test_annotators_who_contradict_each_other_in_a_sheet_are_told(tmp_path):
    """All is kept: a span may have two labels."""
    header = ["文本", "标签", "实体", "标注人"]
    rows = [["患者头晕三天", "症状", "头晕", "小王"], ["患者头晕三天", "疾病", "头晕", "小李"]]
    rows += [["患者发热", "", "", "小李"], ["患者发热", "症状", "发热", "小王"], ["复查", "", "", "小王"]]
    warned = []
    found = [{("症状", "头晕"), ("疾病", "头晕")}, {("症状", "发热")}, set()]
    assert [pairs for _, pairs in read(csv(tmp_path / "a.csv", [header, *rows]), warned)] == found
    assert [pair for pair in warned if "标注人" not in pair[1]] == [
        (DENIED, "a.csv:4"),
        (DOUBLE, "a.csv:3 头晕 is 症状 and 疾病"),
    ]


def test_one_surface_at_two_places_may_have_two_labels(tmp_path):
    rows = [["北京在北京", label, start, start + 2] for label, start in (("队", 0), ("地点", 3), ("城市", 3))]
    warned = []
    read(csv(tmp_path / "a.csv", [["文本", "标签", "开始", "结束"], *rows]), warned)
    assert warned == [(DOUBLE, "a.csv:4 [3, 5) is 地点 and 城市")]


def test_white_space_around_the_label_and_entity_of_a_row_is_trimmed_and_told(tmp_path):
    rows = [[TEXTS[1], "景点 ", "西湖"], [TEXTS[2], "景点", " 外滩"], [TEXTS[2], "美食", "小笼包"]]
    warned = []
    assert read(csv(tmp_path / "a.csv", [["文本", "标签", "实体"], *rows]), warned) == WANTED[1:3]
    assert [where for _, where in warned] == ["a.csv:2", "a.csv:3"]


def test_a_cell_of_a_row_an_entity_may_name_several(tmp_path):
    rows = [["文本", "标签", "实体"], [TEXTS[0], "景点", "故宫、天坛"], [TEXTS[0], "美食", "烤鸭"]]
    assert read(csv(tmp_path / "a.csv", rows)) == WANTED[:1]
    below = [rows[0], rows[2], ["", "景点", "故宫、天坛"]]
    assert read(csv(tmp_path / "b.csv", below)) == WANTED[:1]
    (fault,) = faults(csv(tmp_path / "c.csv", [rows[0], [TEXTS[0], "景点", "；"]]))
    assert fault.startswith("c.csv:2: ")
    rows[1][2] = "故宫、地坛"
    (fault,) = faults(csv(tmp_path / "a.csv", rows))
    assert '"地坛"' in fault


def written(folder, name, *examples, **options):
    """What comes back of the examples from a table, the cells of its rows, and what of it is told."""
    write_jsonl(folder / "in.jsonl", examples)
    told = convert(str(folder / "in.jsonl"), folder / name, **options).losses.counts
    (table,) = tables_of(folder / name).values()
    again = list(open_source(str(folder / name), None).examples())
    return [(e.id, e.group, e.text, e.entities) for e in again], [cells for _, cells in table], told


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx"])
def test_what_is_written_is_a_row_an_entity_that_excel_takes_for_text(name, tmp_path):
    rows = [
        Example("7", "=1+1是无", (Entity("A", "=1", 0, 2), Entity("B", "无", 5, 6)), group="甲"),
        Example("8", "没有", ()),
        Example("9", "没有", (Entity("A", "没", 0, 1), Entity("A", "没有", 0, 2))),
    ]
    back, cells, told = written(tmp_path, name, *rows)
    assert back == [(e.id, e.group, e.text, e.entities) for e in rows]
    assert cells == [
        ["id", "text", "label", "entity", "start", "end", "group"],
        ["7", "=1+1是无", "A", "=1", "0", "2", "甲"],
        ["7", "=1+1是无", "B", "无", "5", "6", "甲"],
        ["8", "没有", "", "", "", "", ""],
        ["9", "没有", "A", "没", "0", "1", ""],
        ["9", "没有", "A", "没有", "0", "2", ""],
    ]
    assert written(tmp_path, name, *rows[1:])[1][0] == cells[0][:-1]
    assert not told
    assert (tmp_path / name).read_bytes().startswith((b"\xef\xbb\xbf", b"PK")), "Excel would take it for GBK"


def test_texts_that_a_table_reads_as_one_row_are_told(tmp_path):
    """Ids that do not repeat may be those of the entities."""
    one, other = (Example(id, TEXTS[0], (Entity("景点", "故宫", 4, 6),)) for id in "ab")
    back, _, told = written(tmp_path, "a.csv", one, other)
    assert [(id, text) for id, _, text, _ in back] == [("a", TEXTS[0])]
    assert told == {MERGED: 1}


def test_what_a_cell_of_excel_cannot_hold_is_refused_or_told(tmp_path):
    for text, what in (("一" * 32_768, "32,767 characters"), ("一\x00", "control characters")):
        with pytest.raises(NerError, match=what) as error:
            written(tmp_path, "a.xlsx", Example("1", text, ()))
        assert error.value.place == "row 2"
        assert not (tmp_path / "a.xlsx").exists()
        assert written(tmp_path, "a.csv", Example("1", text, ()))[0] == [("1", "", text, ())]
    lines = Example("1", "北京\r\n上海", (Entity("A", "上海", 4, 6),))
    assert written(tmp_path, "a.csv", lines)[0] == [("1", "", lines.text, lines.entities)]
    with pytest.raises(NerError, match="cannot hold all"):
        written(tmp_path, "b.xlsx", lines)
    back, _, told = written(tmp_path, "b.xlsx", lines, lossy=True)
    assert back == [("1", "", "北京 \n上海", lines.entities)]
    assert told == {LINE_BREAKS: 1}


def test_an_entity_that_was_added_by_hand_needs_no_offsets_if_its_surface_leaves_no_doubt(tmp_path):
    """In a sheet of proposals, say."""
    header, own = ["text", "label", "entity", "start", "end"], [TEXTS[0], "景点", "故宫", 4, 6]
    warned = []
    rows = [header, own, [TEXTS[0], "景点", "天坛", None, None], [TEXTS[0], "美食", "烤鸭", "", ""]]
    assert read(sheet(tmp_path / "a.xlsx", rows), warned) == WANTED[:1]
    assert [where for _, where in warned] == ["a.xlsx:3 天坛", "a.xlsx:4 烤鸭"]
    for text, surface in ((TEXTS[0], "颐和园"), (f"{TEXTS[0]}，烤鸭", "烤鸭")):
        (fault,) = faults(sheet(tmp_path / "b.xlsx", [header, [text, *own[1:]], [text, "美食", surface, None, None]]))
        assert "lacks start, end" in fault


@pytest.mark.parametrize("cell", ['"我在北京', '"我"在北京', '"北京"'])
def test_quotes_of_csv_are_those_of_a_cell_or_a_fault_of_its_line(cell, tmp_path):
    """Read otherwise, the first would hold all rows below, and the second lose its quotes."""
    path = tmp_path / "a.csv"
    path.write_text(f'text,label,entity\n"三星\n手机",A,三星\n{cell},A,北京\n苹果,A,苹果\n', encoding="utf-8")
    if cell == '"北京"':
        assert [text for text, _ in read(path)] == ["三星\n手机", "北京", "苹果"]
        return
    with pytest.raises(NerError, match="cannot be read as CSV") as error:
        read(path)
    assert error.value.place == f"{path}:4"
    assert "twice" in error.value.remedy


def test_a_document_is_a_cell(tmp_path):
    text = "三星在北京。" * 40_000
    back, _, _ = written(tmp_path, "a.csv", Example("1", text, (Entity("A", "三星", 0, 2),)))
    assert back == [("1", "", text, (Entity("A", "三星", 0, 2),))]


def test_a_cell_that_stands_whole_in_its_text_is_one_entity_of_a_row(tmp_path):
    rows = [
        ["局部红、肿、热、痛三天", "症状", "红、肿、热、痛"],
        ["他读了《战争、和平》", "书", "《战争、和平》"],
        ["去了北京和上海", "地点", "北京、上海"],
    ]
    warned = []
    assert [found for _, found in read(csv(tmp_path / "a.csv", [["文本", "标签", "实体"], *rows]), warned)] == [
        {("症状", "红、肿、热、痛")},
        {("书", "《战争、和平》")},
        {("地点", "北京"), ("地点", "上海")},
    ]
    assert [where for _, where in warned] == ["a.csv:2 红、肿、热、痛"], "what stands in quotes leaves no doubt"


def test_what_may_be_one_surface_or_several_is_told(tmp_path):
    """In the column of a label a mark separates, as is documented, but not within quotes."""
    rows = [
        ["文本", "书", "景点"],
        ["读《战争、和平》", "《战争、和平》", ""],
        ["看“A|B”和《C、D》", "“A|B”、《C、D》", ""],
    ]
    rows.append(["去了故宫、天坛", "", "故宫、天坛"])
    warned = []
    assert [found for _, found in read(csv(tmp_path / "a.csv", rows), warned)] == [
        {("书", "《战争、和平》")},
        {("书", "“A|B”"), ("书", "《C、D》")},
        {("景点", "故宫"), ("景点", "天坛")},
    ]
    assert [where for _, where in warned] == ["a.csv:4 故宫、天坛"]


@pytest.mark.parametrize("mark", ["、", ";", "|", ",", "/", "\n"])
def test_surfaces_and_labels_of_one_row_belong_together_in_their_order(tmp_path, mark):
    names = ["三星", "北京"], ["苹果", "上海"]
    rows = [[f"{a}在{b}", mark.join((a, b)), mark.join(("公司", "地点"))] for a, b in names]
    path = csv(tmp_path / "a.csv", [["文本", "实体", "标签"], *rows])
    assert [found for _, found in read(path)] == [{("公司", a), ("地点", b)} for a, b in names]
    rows.append(["三星和华为在深圳", mark.join(("三星", "华为", "深圳")), mark.join(("公司", "地点"))])
    (fault,) = faults(csv(tmp_path / "b.csv", [["文本", "实体", "标签"], *rows]))
    assert fault.startswith("b.csv:")
    assert "3 surfaces and 2 labels" in fault
    rows = [["头痛和发热", mark.join(("头痛", "发热")), f"症状{mark}体征"], ["咳嗽", "咳嗽", f"症状{mark}体征"]]
    found = read(csv(tmp_path / "c.csv", [["文本", "实体", "标签"], *rows]))
    assert {label for _, pairs in found for label, _ in pairs} == {f"症状{mark}体征"}, (
        "a row shows that it is one label"
    )


@pytest.mark.parametrize("name", ["词", "字", "word", "token"])
@pytest.mark.parametrize("of", ["句子", "text", "点评内容"])
@pytest.mark.parametrize("label", ["标签", "label"])
def test_a_column_of_words_beside_their_texts_is_one_of_entities(tmp_path, of, name, label):
    rows = [[text, surface, kind] for text, kind, surface in ENTITIES]
    assert read(csv(tmp_path / "a.csv", [[of, name, label], *rows])) == WANTED


def test_characters_beside_their_text_are_characters_by_their_tags(tmp_path):
    text, tags = "三星在", ("B-公司", "I-公司", "O")
    for names in (tags, ("公司", "公司", "O")):
        rows = [[text, character, tag] for character, tag in zip(text, names, strict=True)]
        assert read(csv(tmp_path / "a.csv", [["text", "char", "tag"], *rows])) == [(text, {("公司", "三星")})]


@pytest.mark.parametrize("name", ["id", "句子"])
def test_a_number_of_its_own_in_each_row_separates_no_sentences(tmp_path, name):
    rows = [[n, *pair] for n, pair in enumerate(zip("三星在北京", "BIOBI", strict=True), 1)]
    rows = [[n, character, tag if tag == "O" else f"{tag}-A"] for n, character, tag in rows]
    assert read(csv(tmp_path / "a.csv", [[name, "字", "标签"], *rows])) == [
        ("三星在北京", {("A", "三星"), ("A", "北京")})
    ]
    for numbers in ("11122", "12312"):
        rows = [[number, *rest] for number, (_, *rest) in zip(numbers, rows, strict=True)]
        assert [text for text, _ in read(csv(tmp_path / "b.csv", [[name, "字", "标签"], *rows]))] == ["三星在", "北京"]


def test_a_formula_without_a_value_is_an_error_with_its_cell(tmp_path):
    """Programs write formulas without their values, which Excel computes; read as empty, its entity would be lost."""
    path = sheet(tmp_path / "a.xlsx", [["文本", "公司"], ["三星在北京", "=LEFT(A2,2)"], ["苹果在上海", "苹果"]])
    with pytest.raises(NerError) as error:
        read(path)
    assert str(error.value.place) == f"{path}: B2"
    assert "Excel" in error.value.remedy
    guide = [["数目"], ["=COUNTA(A:A)"]]
    path = sheet(tmp_path / "b.xlsx", [["文本", "公司"], ["三星在北京", "三星"]], more=[("统计", guide)])
    assert read(path) == [("三星在北京", {("公司", "三星")})], "only in the sheet that is read"


def test_a_sheet_that_is_hidden_goes_behind_those_in_sight(tmp_path):
    path = sheet(
        tmp_path / "a.xlsx",
        [["文本", "景点"], ["旧的西湖", "西湖"]],
        more=[("标注", [["文本", "景点"], *(row[:2] for row in COLUMNS)])],
    )
    book = openpyxl.load_workbook(path)
    book.worksheets[0].sheet_state = "hidden"
    book.active = 1
    book.save(path)
    assert [text for text, _ in read(path)] == TEXTS


def test_characters_that_excel_escapes(tmp_path):
    rows = [["text", "label", "entity", "start", "end"], ["第一行_x000D_\n三星", "公司", "三星", 5, 7]]
    assert read(sheet(tmp_path / "a.xlsx", rows)) == [("第一行\r\n三星", {("公司", "三星")})]
    back, _, _ = written(tmp_path, "b.xlsx", Example("1", "_x0041_三星_xd83d_", (Entity("A", "三星", 7, 9),)))
    assert back == [("1", "", "_x0041_三星_xd83d_", (Entity("A", "三星", 7, 9),))]


def test_cells_far_away_that_hold_nothing_cost_nothing(tmp_path):
    path = sheet(tmp_path / "a.xlsx", [["文本", "景点", "美食"], *COLUMNS])
    book = openpyxl.load_workbook(path)
    for at in ("XFD1", "XFD90", "C2000"):
        book.active[at].font = openpyxl.styles.Font(bold=True)
    book.active.merge_cells("A300:A1000")
    book.save(path)
    (rows,) = tables_of(path).values()
    assert (len(rows), {len(cells) for _, cells in rows}) == (7, {3})
    assert read(path) == WANTED


def test_a_header_that_looks_like_a_row_is_told(tmp_path):
    rows = [["三星在北京", "三星"], ["苹果在上海", "苹果"], ["华为在深圳", "华为"]]
    warned = []
    assert len(read(csv(tmp_path / "a.csv", rows), warned)) == 2
    assert [where for _, where in warned] == ["a.csv:1"]
    assert "header" in warned[0][0]


def test_json_is_told_by_what_a_column_holds(tmp_path):
    """Whatever its name is: ours is entities."""
    rows = ['[{""label"": ""公司"", ""text"": ""三星"", ""start"": 0, ""end"": 2}]', '{""公司"": [""苹果""]}', "[]", ""]
    texts = ["三星在北京", "苹果在上海", "今天下雨", "明天也下"]
    for name in ("entities", "annotations", "标注结果", "结果"):
        table = [["id", "text", name], *([n, *row] for n, row in enumerate(zip(texts, rows, strict=True)))]
        found = [{("公司", "三星")}, {("公司", "苹果")}, set(), set()]
        assert read(csv(tmp_path / "a.csv", table)) == list(zip(texts, found, strict=True))
    table = [["text", "meta", "公司"], *([text, '{""source"": 7, ""page"": ""a""}', text[:2]] for text in texts[:2])]
    warned = []
    assert read(csv(tmp_path / "b.csv", table), warned, keep={"公司"}) == list(zip(texts[:2], found[:2], strict=True))
    assert [where for _, where in warned] == ["b.csv: meta"]


@pytest.mark.parametrize("name", ["a.tsv", "a.txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "utf-16"])
def test_tables_separated_by_tabs(tmp_path, name, encoding):
    """As Excel saves "Unicode text" and "text"."""
    for rows in ([["文本", "标签", "实体"], *ENTITIES], [["点评内容", "景点", "美食"], *COLUMNS]):
        (tmp_path / name).write_bytes("".join("\t".join(row) + "\r\n" for row in rows).encode(encoding))
        assert read(tmp_path / name) == WANTED
    tagged = "Content\tB-A\nreview\tI-A\nis\tO\n\ntext\tO\n"
    (tmp_path / name).write_text(tagged, encoding="utf-8")
    assert read(tmp_path / name) == [("Content review is", {("A", "Content review")}), ("text", set())]


def test_lines_that_end_in_carriage_returns(tmp_path):
    text = "".join(",".join(row) + "\r" for row in [["文本", "标签", "实体"], *ENTITIES])
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert read(tmp_path / "a.csv") == [(text, found) for text, found in WANTED]


BEIJING = "北京人在北京"
NAMES = [("start_char", "end_char"), ("char_start", "char_end"), ("起始下标", "结束下标"), ("开始索引", "结束索引")]


@pytest.mark.parametrize("names", NAMES)
def test_offsets_under_any_usual_name(tmp_path, names):
    path = csv(tmp_path / "a.csv", [["文本", "标签", "实体", *names], [BEIJING, "地点", "北京", 4, 6]])
    (example,) = open_source(str(path), None).examples()
    assert [entity.span for entity in example.entities] == [(4, 6)]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("form", ["{}", "{}-{}", "[{}, {}]"])
def test_a_column_that_may_hold_offsets_is_a_fault_where_they_matter(tmp_path, form, first):
    rows = [[BEIJING, "地点", "北京", 4], ["我在上海", "地点", "上海", 2]]
    named = [[*row[:3], form.format(row[3] + first, row[3] + 2)] for row in rows]
    path = csv(tmp_path / "a.csv", [["文本", "标签", "实体", "何处"], *named])
    with pytest.raises(NerError, match='the column "何处" may hold offsets') as error:
        read(path)
    assert error.value.place == f"{path}:1"
    assert '"start" and "end"' in error.value.remedy
    csv(path, [["文本", "标签", "实体", "start", "end"], *([*row, row[3] + 2] for row in rows)])
    assert [e.entities[0].start for e in open_source(str(path), None).examples()] == [4, 2]
    csv(path, [["文本", "标签", "实体", "何处"], named[1]])
    assert read(path) == [("我在上海", {("地点", "上海")})], "a surface that stands once needs none"


@pytest.mark.parametrize("numbers", [(0, 0), (1, 1), (3, 2), (4, ""), (4, 5)])
def test_numbers_that_are_no_places_stand_beside_an_entity(tmp_path, numbers):
    rows = [[BEIJING, "地点", "北京", numbers[0]], ["上海人在上海", "地点", "上海", numbers[1]]]
    assert len(read(csv(tmp_path / "a.csv", [["文本", "标签", "实体", "评分"], *rows]))) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("电话0571-88888", 571),
        ("版本3.10发布", 3.1),
        ("共付1000.50元", 1000.5),
        ("付1,000元", 1000),
        ("会议10:30开始", time(10, 30)),
        ("2023-05-01放假", datetime(2023, 5, 1)),
        ("增长50%", 0.5),
        ("编号110101199003070012", 110101199003070000),
    ],
)
@pytest.mark.parametrize("form", ["entities", "labels"])
def test_a_surface_that_excel_keeps_as_another_number_is_a_fault(tmp_path, form, text, value):
    header = ["文本", "标签", "实体"] if form == "entities" else ["文本", "公司", "数"]
    rows = [header, ["三星5号", "公司", "三星"] if form == "entities" else ["三星5号", "三星", 5]]
    rows += [["产量是3.25吨", "数", 3.25] if form == "entities" else ["产量是3.25吨", "", 3.25]]
    rows.append([text, "数", value] if form == "entities" else [text, "", value])
    (fault,) = faults(sheet(tmp_path / "a.xlsx", rows), keep={"公司", "数"})
    assert fault.startswith("a.xlsx:4: ")
    assert "format the column as text and type it again" in fault
    surface = next(word for word in text.replace("电话", "").split("发") if word)[:4]
    rows[-1][2] = surface
    assert read(sheet(tmp_path / "a.xlsx", rows))[-1] == (text, {("数", surface)})


@pytest.mark.parametrize("value", [datetime(2023, 5, 1), time(10, 30), True])
@pytest.mark.parametrize("form", ["characters", "entities", "pairs", "json"])
def test_a_text_or_token_that_excel_may_show_otherwise_is_a_fault(tmp_path, form, value):
    rows = {
        "characters": [["word", "tag"], ["on", "O"], [value, "B-DATE"]],
        "entities": [["text", "label", "entity"], ["三星", "公司", "三星"], [value, "", ""]],
        "pairs": [["text", "entities"], ["三星", "公司:三星"], [value, ""]],
        "json": [["text", "label"], ["三星", '{"公司": ["三星"]}'], [value, ""]],
    }[form]
    (fault,) = faults(sheet(tmp_path / "a.xlsx", rows))
    assert fault.startswith("a.xlsx:3: ")
    rows[2][0] = "2023年"
    assert "2023年" in read(sheet(tmp_path / "a.xlsx", rows))[-1][0]


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (0.5, "0%", False),
        (571, "0000", False),
        (3.1, "0.00", False),
        (1000, "#,##0", False),
        (0.5, "General", True),
        (2023, "General", True),
        (2023, "0_ ", True),
        (2023, "0_);[Red]\\(0\\)", True),
        (3.25, "0.00_ ", True),
        (3.5, "@", True),
    ],
)
def test_a_number_is_a_token_as_excel_shows_it(tmp_path, value, form, shown):
    path = formatted(tmp_path / "a.xlsx", [["word", "tag"], ["on", "O"], [value, "B-PCT"]], form)
    if shown:
        assert read(path) == [(f"on {value}", {("PCT", str(value))})]
    else:
        assert len(faults(path)) == 1


def test_a_header_that_looks_like_a_row_of_pairs_is_told(tmp_path):
    rows = [["三星在北京", "公司:三星"], ["苹果在上海", "公司:苹果"], ["华为在深圳", "公司:华为"]]
    for path in (csv(tmp_path / "a.csv", rows), sheet(tmp_path / "a.xlsx", rows)):
        warned = []
        assert len(read(path, warned)) == 2
        assert [where for what, where in warned if "header" in what] == [f"{path.name}:1"]
        warned.clear()
        assert len(read(csv(path.with_suffix(".csv"), [["文本", "实体"], *rows]), warned)) == 3
        assert not warned


def test_a_key_that_a_cell_has_twice_is_a_fault(tmp_path):
    rows = [[one, f'{{""公司"": [""{one[:2]}""]}}'] for one in ("华为在深圳", "苹果在上海")]
    rows.append(["三星和苹果", '{""公司"": [""三星""], ""公司"": [""苹果""]}'])
    (fault,) = faults(csv(tmp_path / "a.csv", [["text", "label"], *rows]))
    assert fault.startswith("a.csv:4: the cell ")
    assert 'the key "公司" appears twice' in fault


def test_characters_and_tags_that_are_missing_are_told(tmp_path):
    rows = [["字", "标签"], ["三", "B-公司"], ["星", "I-公司"], ["在", ""], ["", "O"], ["京", "O"]]
    warned = []
    assert read(csv(tmp_path / "a.csv", rows), warned) == [("三星在 京", {("公司", "三星")})]
    assert warned == [
        ("rows without a tag, read as O", "a.csv:4"),
        ("rows without a character, read as a space", "a.csv:5"),
    ]
    warned.clear()
    blank = [[char, "" if tag == "O" else tag] for char, tag in rows if char]
    assert read(csv(tmp_path / "a.csv", blank), warned) == [("三星在京", {("公司", "三星")})]
    assert not warned, "no tag is written O: without one stands for it"


@pytest.mark.parametrize(
    "names",
    [
        ("文 本", "标 签", "实 体"),
        ("文本", "实体 类别", "实体 名称"),
        ("ｔｅｘｔ", "ｌａｂｅｌ", "ｅｎｔｉｔｙ"),
        ("文本（text）", "标签（label）", "实体（entity）"),
        ("句子内容", "实体标签", "实体值"),
        ("文本", "实体类", "实体"),
    ],
)
def test_names_of_columns_with_spaces_width_and_brackets(tmp_path, names):
    assert read(csv(tmp_path / "a.csv", [names, *ENTITIES])) == WANTED


def test_what_is_in_brackets_may_be_the_label(tmp_path):
    rows = [["文本", "类型", "实体（景点）", "实体（美食）"], *([t, "好评", s, f] for t, s, f in COLUMNS)]
    found = [(text, {(f"实体（{label}）", one) for label, one in pairs}) for text, pairs in WANTED]
    assert read(csv(tmp_path / "a.csv", rows), keep={"实体（景点）", "实体（美食）"}) == found


@pytest.mark.parametrize("offsets", [[], ["开始", "结束"]])
def test_entities_under_a_name_given_twice_are_a_fault(tmp_path, offsets):
    beside = [0, 2] if offsets else []
    rows = [["文本", "标签", "实体", *offsets, "标签", "实体"], ["三星在北京", "公司", "三星", *beside, "地点", "北京"]]
    with pytest.raises(NerError, match='two columns are called "实体"') as error:
        read(csv(tmp_path / "a.csv", rows))
    assert "a row of its own" in error.value.remedy
    rows = [["文本", "标签", "实体", "标签"], ["三星在北京", "公司", "三星", "新闻"]]
    assert read(csv(tmp_path / "a.csv", rows)) == [("三星在北京", {("公司", "三星")})]


def test_a_surface_with_other_invisible_characters_is_told_so(tmp_path):
    rows = [
        ["文本", "公司"],
        ["三星\u00a0电子在北京", "三星 电子"],
        ["三\u200b星在上海", "三星"],
        ["苹果在上海", "平果"],
    ]
    found = faults(csv(tmp_path / "a.csv", rows), keep={"公司"})
    assert ["copy it from the text" in fault for fault in found] == [True, True, False]
    assert "U+00A0" in found[0]
    assert "U+200B" in found[1]
