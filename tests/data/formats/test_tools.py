"""Rows of other tools say what our own rows say."""

import json
import re

import pytest

from qwen_ner.data.formats.errors import DataError
from qwen_ner.data.formats.registry import detect, open_source
from qwen_ner.entities import Entity, NerError

FIRST, SECOND, NONE = "阿司匹林可缓解头痛", "患者服用布洛芬后出现恶心", "今天天气很好"
DRUG, SYMPTOM = "药品", "症状"
WANTED = [
    (FIRST, (Entity(DRUG, "阿司匹林", 0, 4), Entity(SYMPTOM, "头痛", 7, 9))),
    (SECOND, (Entity(DRUG, "布洛芬", 4, 7), Entity(SYMPTOM, "恶心", 10, 12))),
    (NONE, ()),
]
ANSWERS = [{DRUG: ["阿司匹林"], SYMPTOM: ["头痛"]}, {DRUG: ["布洛芬"], SYMPTOM: ["恶心"]}, {}]
ITEMS = [[(e.label, e.text, e.start, e.end) for e in entities] for _, entities in WANTED]
TEXTS = [text for text, _ in WANTED]


def rows(text="text", items="entities", **keys):
    """Rows whose entities have these keys: `start`, `last` (inclusive) or `end`, `label`, `surface`."""

    def entity(label, surface, start, end):
        values = {
            "start": start,
            "end": end,
            "last": end - 1,
            "label": label,
            "surface": surface,
            "labels": [label],
            "span": [start, end],
        }
        return {name: values[kind] for kind, name in keys.items()}

    return [
        {text: sentence, items: [entity(*item) for item in found]} for sentence, found in zip(TEXTS, ITEMS, strict=True)
    ]


FORMS = {
    "cmeee": rows(start="start_idx", last="end_idx", label="type", surface="entity"),
    "cmeee without surfaces": rows(start="start_idx", last="end_idx", label="type"),
    "from and to": rows(items="labels", start="from", end="to", label="type"),
    "content and mentions": rows("content", "mentions", start="begin", end="stop", label="tag", surface="word"),
    "a span of two": rows(items="entity_list", span="pos", label="entity_type", surface="name"),
    "one label in a list": rows(items="spans", start="start", end="end", labels="labels"),
    "type for label": rows(start="start", end="end", label="type"),
    "inclusive, with surfaces": rows(start="start", last="end", label="label", surface="text"),
    "surfaces alone": rows(label="type", surface="entity"),
    "prodigy": [{**row, "_input_hash": 1, "tokens": [{"text": "阿", "start": 0, "end": 1, "id": 0}], "answer": "accept"} for row in rows(items="spans", start="start", end="end", label="label")],
    "spacy pairs": [[text, {"entities": [[start, end, label] for label, _, start, end in found]}] for text, found in zip(TEXTS, ITEMS, strict=True)],
    "llama-factory": [{"instruction": "抽取实体", "input": text, "output": json.dumps(answer, ensure_ascii=False)} for text, answer in zip(TEXTS, ANSWERS, strict=True)],
    "instruction alone": [{"instruction": text, "input": "", "output": answer} for text, answer in zip(TEXTS, ANSWERS, strict=True)],
    "sharegpt": [{"conversations": [{"from": "system", "value": "抽取实体"}, {"from": "human", "value": text}, {"from": "gpt", "value": json.dumps(answer)}]} for text, answer in zip(TEXTS, ANSWERS, strict=True)],
    "messages": [{"messages": [{"role": "user", "content": f"抽取药品:症状：{text}"}, {"role": "assistant", "content": f"```json\n{json.dumps(answer)}\n```"}]} for text, answer in zip(TEXTS, ANSWERS, strict=True)],
    "instruction before the text": [{"instruction": f"抽取下面句子中的实体：{text}", "input": "", "output": answer} for text, answer in zip(TEXTS, ANSWERS, strict=True)],
    "a list as answer": [{"instruction": "", "input": text, "output": json.dumps([{"entity": surface, "type": label} for label, surface, *_ in found])} for text, found in zip(TEXTS, ITEMS, strict=True)],
    "iepile": [{"task": "NER", "instruction": json.dumps({"instruction": "抽取", "schema": [DRUG, SYMPTOM], "input": text}), "output": json.dumps(answer)} for text, answer in zip(TEXTS, ANSWERS, strict=True)],
    "an instruction for each label": [{"instruction": f"抽取{label}", "input": text, "output": json.dumps({label: answer.get(label, [])})} for label in (DRUG, SYMPTOM) for text, answer in zip(TEXTS, ANSWERS, strict=True)],
    "prodigy, nothing marked": [{"text": text, "tokens": [{"text": text, "start": 0, "end": len(text), "id": 0}], "answer": "accept"} | ({"spans": [{"start": start, "end": end, "label": label} for label, _, start, end in found]} if found else {}) for text, found in zip(TEXTS, ITEMS, strict=True)],
    "uie, shuffled": [
        {"content": FIRST, "prompt": DRUG, "result_list": [{"text": "阿司匹林", "start": 0, "end": 4}]},
        {"content": SECOND, "prompt": SYMPTOM, "result_list": [{"text": "恶心", "start": 10, "end": 12}]},
        {"content": NONE, "prompt": DRUG, "result_list": []},
        {"content": SECOND, "prompt": DRUG, "result_list": [{"text": "布洛芬", "start": 4, "end": 7}]},
        {"content": FIRST, "prompt": SYMPTOM, "result_list": [{"text": "头痛", "start": 7, "end": 9}]},
    ],
}  # fmt: skip


def read(path, warned=None):
    examples = open_source(str(path), None).examples(
        warn=lambda what, where: None if warned is None else warned.append(what)
    )
    return [(e.text, tuple(sorted(e.entities, key=lambda x: x.start))) for e in examples]


@pytest.mark.parametrize("layout", ["lines", "array", "indented"])
@pytest.mark.parametrize("name", FORMS)
def test_all_forms_say_the_same(tmp_path, name, layout):
    path = tmp_path / ("train.jsonl" if layout == "lines" else "train.json")
    if layout == "lines":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in FORMS[name]), encoding="utf-8")
    else:
        path.write_text(
            json.dumps(FORMS[name], ensure_ascii=False, indent=1 if layout == "indented" else None), encoding="utf-8"
        )
    assert read(path) == WANTED


def write(path, values):
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return path


def test_what_is_read_otherwise_than_written_is_said(tmp_path):
    warned = []
    assert read(write(tmp_path / "a.jsonl", FORMS["inclusive, with surfaces"]), warned) == WANTED
    assert any("inclusive" in what for what in warned)
    warned.clear()
    assert read(write(tmp_path / "b.jsonl", FORMS["messages"]), warned) == WANTED
    assert any("抽取药品" in what for what in warned)
    warned.clear()
    prodigy = [
        {**row, "answer": answer} for row, answer in zip(FORMS["prodigy"], ["accept", "reject", "ignore"], strict=True)
    ]
    assert read(write(tmp_path / "c.jsonl", prodigy), warned) == WANTED[:1]
    assert sorted(warned) == ['rows whose answer is "ignore", left out', 'rows whose answer is "reject", left out']


def test_exclusive_and_inclusive_ends_in_one_file_are_faults(tmp_path):
    one = rows(start="start", end="end", label="type", surface="text")
    other = rows(start="start", last="end", label="type", surface="text")
    with pytest.raises(DataError) as error:
        read(write(tmp_path / "a.jsonl", [one[0], other[1]]))
    assert len(error.value.faults) == 2
    assert all(fault.startswith("a.jsonl:2:") for fault in error.value.faults)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": FIRST, "entities": [{"start": 0, "end": 4}]}, "label"),
        ({"messages": [{"role": "user", "content": FIRST}]}, "one question and one answer"),
        ({"messages": [{"role": "user", "content": FIRST}, {"role": "assistant", "content": "药品：阿司匹林"}]}, "not JSON"),
        ({"instruction": "", "input": FIRST, "output": '["阿司匹林"]'}, "label"),
        ({"text": FIRST, "spans": [{"label": DRUG, "word": "青霉素"}]}, "青霉素"),
        ([FIRST, 3], "neither"),
    ],
)  # fmt: skip
def test_a_row_that_says_nothing_is_a_fault_at_its_place(tmp_path, row, said):
    """Behind rows of the same tool; nothing becomes a row without entities."""
    kind = (
        "spacy pairs"
        if isinstance(row, list)
        else "messages"
        if "messages" in row
        else "llama-factory"
        if "output" in row
        else "type for label"
    )
    with pytest.raises(DataError) as error:
        read(write(tmp_path / "a.jsonl", [*FORMS[kind], row]))
    assert error.value.faults[0].startswith("a.jsonl:4: ")
    assert said in error.value.faults[0]


def test_keys_that_are_not_read_are_named(tmp_path):
    row = {"text": FIRST, "meta": {"source": 1}, "spans": [{"start": 0, "end": 4, "label": DRUG, "sure": True}]}
    noted = []
    list(
        open_source(str(write(tmp_path / "a.jsonl", [row])), None).examples(note=lambda what, where: noted.append(what))
    )
    assert sorted(noted) == ['the key "meta"', 'the key "sure" of entities']


def test_rows_of_our_own_and_of_doccano_stay_theirs(tmp_path):
    ours = {"text": FIRST, "entities": [{"start": 0, "end": 4, "label": DRUG}]}
    doccano = {"text": FIRST, "label": [[0, 4, DRUG]]}
    names = [detect(write(tmp_path / f"{n}.jsonl", [row])).NAME for n, row in enumerate([ours, doccano])]
    assert names == ["jsonl", "doccano"]


def test_gbk_is_read_and_one_wrong_byte_of_utf_8_is_a_fault(tmp_path, caplog):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in FORMS["cmeee"])
    (tmp_path / "a.jsonl").write_bytes(text.encode("gbk"))
    assert read(tmp_path / "a.jsonl") == WANTED
    assert "GB18030" in caplog.text
    (tmp_path / "b.jsonl").write_bytes(text.encode().replace("天气".encode(), b"\xe5\xa4\xa9\xe6\xb0"))
    with pytest.raises(DataError) as error:
        read(tmp_path / "b.jsonl")
    assert [fault.split(":")[1] for fault in error.value.faults] == ["3"]


FOREIGN = {
    "cp1252": "Müller wohnt in Köln",
    "cp932": "トヨタ自動車は、東京で新しい車を発表した",
    "euc_jp": "トヨタ自動車は、東京で新しい車を発表した",
    "cp949": "삼성전자는 서울에서 새로운 제품을 발표했다고 말했다",
    "cp1251": "Анна живёт в Москве",
}


@pytest.mark.parametrize("encoding", FOREIGN)
def test_what_is_not_chinese_is_not_read_as_chinese(tmp_path, encoding):
    row = json.dumps({"text": FOREIGN[encoding], "entities": []}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes(row.encode(encoding))
    with pytest.raises(DataError, match=r"a\.jsonl:1: byte 0x.* is not UTF-8; save the file as UTF-8"):
        list(open_source(str(tmp_path / "a.jsonl"), None).examples())


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("華為在東莞發佈了新手機，臺灣記者會報導", "gbk"),
        ("三星发布《ファイナル》，的的确确", "gbk"),
        ("镕基与喆", "gbk"),
    ],
)
def test_traditional_and_rare_characters_in_gbk_are_chinese(tmp_path, text, encoding):
    (tmp_path / "a.jsonl").write_bytes(json.dumps({"text": text, "entities": []}, ensure_ascii=False).encode(encoding))
    assert [row.text for row in open_source(str(tmp_path / "a.jsonl"), None).examples()] == [text]


def test_a_byte_order_mark_may_begin_any_line(tmp_path):
    """As where files are put one after the other."""
    row = '{"text": "三星", "entities": []}\n'
    (tmp_path / "a.jsonl").write_text(f"\ufeff{row}\ufeff{row}\ufeff\n", encoding="utf-8")
    assert [row.text for row in open_source(str(tmp_path / "a.jsonl"), None).examples()] == ["三星"] * 2


@pytest.mark.parametrize("rows", [1, 30])
def test_utf_16_without_its_mark_is_not_chinese(tmp_path, rows):
    text = "文本,标签,实体\n" + "三星在北京,公司,三星\n" * rows
    (tmp_path / "a.csv").write_bytes(text.encode("utf-16-le"))
    with pytest.raises(NerError, match="save the file as UTF-8"):
        open_source(str(tmp_path / "a.csv"), None)


def test_big5_is_read_as_big5_though_gb18030_decodes_it_too(tmp_path, caplog):
    text = "text,label,entity\n聯想集團推新設計,公司,聯想集團\n中華民國法務部,機構,中華民國\n"
    for encoding, name in (("big5", "Big5"), ("gb18030", "GB18030")):
        caplog.clear()
        (tmp_path / f"{encoding}.csv").write_bytes(text.encode(encoding))
        found = [e.text for e in open_source(str(tmp_path / f"{encoding}.csv"), None).examples()]
        assert found == ["聯想集團推新設計", "中華民國法務部"]
        assert f"is read as {name}," in caplog.text


BEIJING = "北京人在北京"


def one(**item):
    """A row whose only entity has these keys."""
    return {"text": BEIJING, "entities": [{"type": "LOC", **item}]}


@pytest.mark.parametrize(
    "offsets",
    [
        {"start_char": 4, "end_char": 6},
        {"char_start": 4, "char_end": 6},
        {"offset": 4, "length": 2},
        {"start_pos": 4, "len": 2},
        {"begin": 4, "finish": 6},
        {"span": [[4, 6]]},
        {"offsets": [4, 6]},
    ],
    ids=str,
)
def test_offsets_under_any_usual_name_place_the_surface(tmp_path, offsets):
    (found,) = read(write(tmp_path / "a.jsonl", [one(text="北京", **offsets)]))
    assert found == (BEIJING, (Entity("LOC", "北京", 4, 6),))
    ours = {"text": BEIJING, "entities": [{"label": "LOC", "text": "北京", **offsets}]}
    assert read(write(tmp_path / "b.jsonl", [ours])) == [found]


UNREAD = [
    {"pos": 4},
    {"position": "4-6"},
    {"span": "4,6"},
    {"idx": [4, 5]},
    {"char_start_idx": 4},
    {"begin": 5},
    {"起": 4},
]


@pytest.mark.parametrize("offsets", UNREAD, ids=str)
def test_what_may_say_which_place_is_meant_is_not_dropped(tmp_path, offsets):
    row, (key,) = one(text="北京", **offsets), offsets
    with pytest.raises(DataError) as error:
        read(write(tmp_path / "a.jsonl", [row]))
    (fault,) = error.value.faults
    assert fault.startswith(f'a.jsonl:1: "{key}" of ')
    assert '"start" and "end"' in fault
    row["entities"][0] |= {"start": 4, "end": 6}
    assert read(write(tmp_path / "b.jsonl", [row])) == [(BEIJING, (Entity("LOC", "北京", 4, 6),))]
    chat = {"instruction": "", "input": BEIJING, "output": json.dumps(one(text="北京", **offsets)["entities"])}
    with pytest.raises(DataError, match=f'"{key}" of '):
        read(write(tmp_path / "c.jsonl", [chat]))


BESIDE = [
    {"count": 2},
    {"id": 4},
    {"sent_id": 0},
    {"index": 0},
    {"pos": "NR"},
    {"span": "北京"},
    {"from": "小李"},
    {"level": 4},
]


@pytest.mark.parametrize(
    "beside", [*BESIDE, {"begin": 1042}, {"conf": 0.4}, {"token_span": [2, 3]}, {"bbox": [4, 6, 1, 1]}]
)
def test_what_says_no_place_is_beside_a_surface_as_before(tmp_path, beside):
    both = (Entity("LOC", "北京", 0, 2), Entity("LOC", "北京", 4, 6))
    path = write(tmp_path / "a.jsonl", [one(text="北京", **beside)])
    assert read(path) == [(BEIJING, both)]
    notes = list[str]()
    list(open_source(str(path), None).examples(note=lambda what, where: notes.append(what)))
    assert notes == [f'the key "{key} of entities"' for key in beside if key != "id"], "left out, and said"


@pytest.mark.parametrize("offsets", UNREAD, ids=str)
def test_what_may_be_a_place_matters_only_to_a_surface_that_has_several(tmp_path, offsets):
    assert read(write(tmp_path / "a.jsonl", [one(text="人", **offsets)])) == [(BEIJING, (Entity("LOC", "人", 2, 3),))]


@pytest.mark.parametrize("label", [["公司", "组织"], None, {"a": 1}], ids=str)
def test_a_label_that_is_no_string_is_a_fault(tmp_path, label):
    items = [{"type": label, "text": "北京"}]
    for row in (
        {"text": BEIJING, "entities": items},
        {"instruction": "", "input": BEIJING, "output": json.dumps(items)},
    ):
        with pytest.raises(DataError, match="make it a non-empty string"):
            read(write(tmp_path / "a.jsonl", [row]))


def test_rows_of_bigbio(tmp_path):
    """Each entity has lists of surfaces and offsets, one for each piece."""
    item = {"id": "1", "type": "LOC", "text": ["北京"], "offsets": [[4, 6]], "normalized": []}
    found = [(BEIJING, (Entity("LOC", "北京", 4, 6),))]
    assert read(write(tmp_path / "a.jsonl", [{"text": BEIJING, "entities": [item]}])) == found
    pieces = {"type": "LOC", "text": ["北", "京"], "offsets": [[4, 5], [5, 6]]}
    for items, said in (([item, pieces], "several pieces"), ([{"type": "LOC", "text": ["北", "京"]}], "nor a surface")):
        with pytest.raises(DataError, match=said):
            read(write(tmp_path / "a.jsonl", [{"text": BEIJING, "entities": items}]))


def test_a_key_that_an_answer_has_twice_is_a_fault(tmp_path):
    """JSON would keep the last."""
    answer = '{"药品": ["阿司匹林"], "药品": ["头痛"]}'
    rows = [*FORMS["llama-factory"], {"instruction": "", "input": FIRST, "output": answer}]
    with pytest.raises(DataError, match=r'a\.jsonl:4: .*the key "药品" appears twice'):
        read(write(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize("kind", ["messages", "llama-factory", "uie, shuffled"])
def test_json_that_is_nested_too_deep_is_a_fault_of_its_line(tmp_path, kind):
    path = write(tmp_path / "a.jsonl", FORMS[kind])
    path.write_text(path.read_text(encoding="utf-8") + "[" * 100_000 + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"a\.jsonl:{len(FORMS[kind]) + 1}: .*is not JSON"):
        read(path)
    deep = {"instruction": "", "input": FIRST, "output": "[" * 100_000}
    with pytest.raises(DataError, match="is not JSON"):
        read(write(tmp_path / "b.jsonl", [deep]))


def chats(form):
    return [
        {"messages": [{"role": "user", "content": form.format(text)}, {"role": "assistant", "content": answer}]}
        for text, answer in zip(TEXTS, ANSWERS, strict=True)
    ]


@pytest.mark.parametrize(
    "form",
    [
        "请抽取文本中的药品。{}",
        "{}\n请抽取上文中的药品",
        "{}。请抽取上文中的药品",
        "抽取药品，写成JSON。\n文本：```{}```",
        "抽取。\n{}\n写成JSON。",
    ],
)
def test_an_instruction_around_the_text_is_left_out(tmp_path, form):
    warned = []
    mark = "。" if form.startswith("{}。") else ""
    assert read(write(tmp_path / "a.jsonl", chats(form)), warned) == [(text + mark, found) for text, found in WANTED]
    assert all("left out" in what for what in warned)
    assert len(warned) == len([part for part in form.split("{}") if part])
    rows = [
        {"instruction": form.format(text), "input": "", "output": a} for text, a in zip(TEXTS, ANSWERS, strict=True)
    ]
    assert read(write(tmp_path / "b.jsonl", rows)) == [(text + mark, found) for text, found in WANTED]


@pytest.mark.parametrize("form", ["{}。", "你好。{}", "{}。谢谢"])
def test_a_short_sentence_that_all_texts_share_is_theirs(tmp_path, form):
    found = read(write(tmp_path / "a.jsonl", chats(form)))
    assert [text for text, _ in found] == [form.format(text) for text in TEXTS]


def test_an_instruction_that_nothing_separates_is_told(tmp_path):
    warned = []
    read(write(tmp_path / "a.jsonl", chats("请抽取药品 {} 谢谢你的帮助")), warned)
    assert [what.partition(", ")[0] for what in warned] == [
        'questions that all begin with "请抽取药品 "',
        'questions that all end with " 谢谢你的帮助"',
    ]


def test_rows_of_uie_keep_their_places_and_their_own_ids(tmp_path):
    rows = [{**row, "source": "x"} for row in FORMS["uie, shuffled"]]
    for n, row in zip((1, 2, 3, 2, 1), rows, strict=True):
        row["id"] = f"a{n}"
    noted = []
    path = write(tmp_path / "a.jsonl", rows)
    examples = list(open_source(str(path), None).examples(note=lambda *said: noted.append(said)))
    assert [(e.id, e.source) for e in examples] == [("a1", "a.jsonl:1"), ("a2", "a.jsonl:2"), ("a3", "a.jsonl:3")]
    assert noted == [('the key "source"', f"a.jsonl:{n}") for n in (1, 2, 3)]
    rows[2]["id"] = "a1"
    examples = list(open_source(str(write(path, rows)), None).examples())
    assert [e.id for e in examples] == ["1", "2", "3"], "ids of something else than the texts"
    rows[4]["result_list"][0]["text"] = rows[1]["result_list"][0]["text"] = "胃痛"
    with pytest.raises(DataError) as error:
        read(write(path, rows))
    assert [fault.split(": ")[0] for fault in error.value.faults] == ["a.jsonl:1", "a.jsonl:2"]


def test_a_relation_that_uie_asks_for_is_no_label(tmp_path):
    asked = {"content": "三星的总部在首尔", "prompt": "公司", "result_list": [{"text": "三星", "start": 0, "end": 2}]}
    place = [{"text": "首尔", "start": 6, "end": 8}]
    rows = [
        asked,
        {**asked, "prompt": "三星的总部", "result_list": place},
        {**asked, "prompt": "公司的总部", "result_list": place},
    ]
    warned = []
    (found,) = read(write(tmp_path / "a.jsonl", rows), warned)
    assert found[1] == (Entity("公司", "三星", 0, 2), Entity("公司的总部", "首尔", 6, 8))
    assert ["relation" in what for what in warned] == [True]


def test_a_row_of_prodigy_in_which_nothing_was_marked_may_come_first(tmp_path):
    rows = FORMS["prodigy, nothing marked"]
    assert read(write(tmp_path / "a.jsonl", rows[::-1])) == WANTED[::-1]


def test_rows_of_one_text_that_do_not_ask_for_different_things_are_not_joined(tmp_path):
    """Two answers to one question contradict each other: that is for `audit` to find."""
    rows = [
        {"instruction": "抽取", "input": FIRST, "output": {DRUG: ["阿司匹林"]}},
        {"instruction": "抽取", "input": FIRST, "output": {}},
    ]
    assert [len(entities) for _, entities in read(write(tmp_path / "a.jsonl", rows))] == [1, 0]
    rows[1] |= {"instruction": "再抽取", "output": {DRUG: ["头痛"]}}
    assert [len(entities) for _, entities in read(write(tmp_path / "a.jsonl", rows))] == [1, 1]


def test_ends_that_a_key_alone_calls_inclusive_are_told(tmp_path):
    warned = []
    assert read(write(tmp_path / "a.jsonl", FORMS["cmeee without surfaces"]), warned) == WANTED
    assert warned == ['ends under "end_idx", read as inclusive, as CMeEE\'s are']
    warned.clear()
    assert read(write(tmp_path / "a.jsonl", FORMS["cmeee"]), warned) == WANTED
    assert not any("CMeEE" in what for what in warned)


def test_a_row_without_a_list_of_entities_is_a_fault_wherever_it_stands(tmp_path):
    rows = [{"text": NONE, "entities": 5}, *FORMS["cmeee without surfaces"]]
    with pytest.raises(DataError) as error:
        read(write(tmp_path / "a.jsonl", rows))
    assert [fault.split(": ")[0] for fault in error.value.faults] == ["a.jsonl:1"]


def test_a_fault_of_an_array_of_instructions_has_the_number_of_its_row(tmp_path):
    rows = [*FORMS["llama-factory"], {"instruction": "抽取实体", "input": NONE, "output": "not JSON"}]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json: row 4"):
        read(tmp_path / "a.json")


def test_inputs_that_begin_alike_are_told_and_kept(tmp_path):
    warned = []
    rows = [row | {"input": f"文本：{row['input']}"} for row in FORMS["llama-factory"]]
    assert [text for text, _ in read(write(tmp_path / "a.jsonl", rows), warned)] == [f"文本：{text}" for text in TEXTS]
    assert warned == ['inputs that all begin with "文本：", kept as a part of their texts']


@pytest.mark.parametrize(
    ("around", "remedy"),
    [
        (lambda rows: {"data": rows}, "jq -c '.data[]'"),
        (lambda rows: {"classes": [DRUG], "annotations": [*FORMS["spacy pairs"], None]}, "'.annotations[] | values'"),
        (lambda rows: {row["text"]: row for row in rows}, "jq -c '.[]'"),
    ],
)
def test_an_object_around_the_rows_is_told_how_to_take_them_out(tmp_path, around, remedy):
    (tmp_path / "a.json").write_text(json.dumps(around(FORMS["from and to"]), indent=1), encoding="utf-8")
    with pytest.raises(NerError, match=re.escape(remedy)):
        read(tmp_path / "a.json")


def test_an_object_around_the_rows_in_one_line_is_told_too(tmp_path):
    with pytest.raises(NerError, match=re.escape("jq -c '.data[]'")):
        read(write(tmp_path / "a.json", [{"data": FORMS["from and to"]}]))


def test_entities_that_are_an_object_of_labels_need_another_name(tmp_path):
    row = {"text": FIRST, "entities": {DRUG: ["阿司匹林"], SYMPTOM: ["头痛"]}}
    with pytest.raises(DataError, match='call it "label"'):
        read(write(tmp_path / "a.jsonl", [row]))
    row["label"] = row.pop("entities")
    assert read(write(tmp_path / "a.jsonl", [row])) == WANTED[:1]


def test_an_object_of_several_lines_is_told_how_to_become_one(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": FIRST, "label": {}}, indent=1), encoding="utf-8")
    with pytest.raises(DataError, match="`jq -c "):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("text", "surface", "named"),
    [
        ("三星\u00a0电子", "三星 电子", "U+00A0"),
        ("Cafe\u0301在", "Caf\u00e9", "U+0301"),
        ("三\u200b星", "三星", "U+200B"),
    ],
)
def test_a_surface_that_looks_like_its_text_says_how_they_differ(tmp_path, text, surface, named):
    with pytest.raises(DataError) as error:
        read(write(tmp_path / "a.jsonl", [{"text": text, "label": {"A": [surface]}}]))
    assert named in error.value.faults[0]
    assert "copy it from the text" in error.value.faults[0]
