"""Rows of other tools say what our own rows say."""

import json

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
