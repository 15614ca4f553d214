"""Laws of annotated files: what is read is what was written, and every fault is named with its line."""

from __future__ import annotations

import codecs
import json
import os
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_ner.data.datasets import DataError, TextRow, has_split, labels_of, read_dataset, read_texts, write_jsonl
from qwen_ner.data.formats import jsonl
from qwen_ner.entities import CLUENER, Entity, Example, LabelSet, NerError

TEXT = "周小舟在渝北图书馆读《渝北旧事》"
NAME = Entity("name", "周小舟", 0, 3)
LIBRARY = Entity("organization", "渝北图书馆", 4, 9)
PLACE = Entity("address", "渝北", 4, 6)
BOOK = Entity("book", "《渝北旧事》", 10, 16)


def file_of(folder: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    """A file with these rows: bytes and strings as they are, anything else as JSON."""
    lines = [r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in rows]
    (folder / name).write_bytes(b"\n".join(lines) + b"\n")
    return folder / name


def faults_of(folder: Path, *rows: object, labels: LabelSet | None = CLUENER) -> list[str]:
    with pytest.raises(DataError) as error:
        list(jsonl.read(file_of(folder, *rows), labels))
    return error.value.faults


@pytest.mark.parametrize(
    "annotation",
    [
        {"label": {"name": ["周小舟"], "book": ["《渝北旧事》"]}},
        {"label": {"name": {"周小舟": [[0, 3]]}, "book": {"《渝北旧事》": [[10, 16]]}}},
        {"label": {"name": ["周小舟"], "book": {"《渝北旧事》": [[10, 16]]}, "game": [], "scene": {}}},
        {"entities": [{"label": "book", "start": 10, "end": 16}, {"label": "name", "start": 0, "end": 3}]},
        {
            "entities": [
                {"label": "name", "start": 0, "end": 3, "text": "周小舟", "note": 1},
                {"label": "book", "start": 10, "end": 16, "surface": "《渝北旧事》"},
            ]
        },
    ],
)  # fmt: skip
def test_each_way_to_annotate_says_the_same(tmp_path, annotation):
    path = file_of(tmp_path, {"text": TEXT, **annotation})
    assert list(jsonl.read(path, CLUENER)) == [Example("1", TEXT, (NAME, BOOK), "rows.jsonl:1")]


def test_a_bare_surface_stands_for_each_of_its_places_and_a_span_for_its_own(tmp_path):
    text = "渝北到渝北"
    listed, spanned = {"address": ["渝北"]}, {"address": {"渝北": [[3, 5]]}}
    path = file_of(tmp_path, {"text": text, "label": listed}, {"text": text, "label": spanned})
    assert [[e.span for e in example.entities] for example in jsonl.read(path)] == [[(0, 2), (3, 5)], [(3, 5)]]


def test_nested_and_overlapping_entities_are_kept(tmp_path):
    items = [{"label": e.label, "start": e.start, "end": e.end} for e in (LIBRARY, PLACE)]
    overlapping = [{"label": "scene", "start": 6, "end": 10}, {"label": "scene", "start": 4, "end": 9}]
    (example,) = jsonl.read(file_of(tmp_path, {"text": TEXT, "entities": items + overlapping}))
    assert {e.span for e in example.entities} == {(4, 6), (4, 9), (6, 10)}
    assert len(example.entities) == 4


def test_ids_are_the_rows_own_or_else_line_numbers(tmp_path):
    rows = [
        {"text": "一", "label": {}, "id": 77},
        {"text": "二", "label": {}, "id": "乙"},
        "",
        {"text": "三", "label": {}},
    ]
    examples = list(jsonl.read(file_of(tmp_path, *rows)))
    assert [example.id for example in examples] == ["77", "乙", "4"]
    assert [example.source for example in examples] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:4"]


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path):
    text = "甲\u2028乙\u0085丙\u2029丁"
    row = json.dumps({"text": text, "label": {}}, ensure_ascii=False)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + row.encode() + b"\r\n \r\n" + row.encode())
    assert [(e.id, e.text) for e in jsonl.read(path)] == [("1", text), ("3", text)]


GOOD = {"text": TEXT, "label": {"name": ["周小舟"]}}


def items(**changes: object) -> dict[str, object]:
    return {"text": TEXT, "entities": [{"label": "name", "start": 0, "end": 3} | changes]}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('{"text": "一",', '"{\\"text\\": \\"一\\"," is not JSON (Expecting property name'),
        (b'{"text": "\xff\xdc"}', "byte 0xff at offset 10 of the line"),
        ("[1, 2]", "[1, 2] is not an object"),
        ('{"text": "一", "text": "二", "label": {}}', 'the key "text" appears twice'),
        ('{"text": "一", "label": {"name": [], "name": ["一"]}}', 'the key "name" appears twice'),
        ("[" * 99_999, "is not JSON ("),
        ('{"text": "一", "label": {}, "id": ' + "9" * 9_999 + "}", "is not JSON ("),
        ('{"text": "一\\ud83d", "label": {}}', "half a surrogate pair"),
        ('{"text": "一", "label": {}, "id": "\\udc00"}', "half a surrogate pair"),
        ({"label": {}}, '{"label": {}} lacks "text"'),
        ({"text": 3, "label": {}}, '"text" is 3'),
        ({"text": None, "label": {}}, '"text" is null'),
        ({"text": "", "label": {}}, 'the text "" is empty'),
        ({"text": " \u3000", "label": {}}, "is empty"),
        ({"text": "一"}, 'lacks "entities"'),
        ({"text": "一", "label": {}, "entities": []}, 'both "label" and "entities"'),
        ({"text": "一", "label": {}, "id": True}, '"id" is true'),
        ({"text": "一", "label": {}, "id": 1.0}, '"id" is 1.0'),
        ({"text": "一", "label": {}, "id": None}, '"id" is null'),
        ({"text": "一", "label": ["name"]}, '"label" is ["name"]'),
        ({"text": "一", "label": None}, '"label" is null'),
        ({"text": "一", "label": {"name": "一"}}, 'label "name" holds "一"'),
        ({"text": "一", "label": {"name": [1]}}, 'label "name" holds the surface 1'),
        ({"text": "一", "label": {"name": [""]}}, 'the surface ""'),
        ({"text": "一", "label": {"name": {"": [[0, 1]]}}}, 'the surface ""'),
        ({"text": "一", "label": {"nam": ["一"]}}, 'label "nam" is unknown; did you mean "name"?'),
        ({"text": "一", "label": {"药": ["一"]}}, 'label "药" is unknown; the known ones are address, book, company'),
        ({"text": "一", "label": {"": ["一"]}}, 'the label is ""'),
        ({"text": "一", "label": {" ": ["一"]}}, 'the label is " "'),
        ({"text": TEXT, "label": {"name": ["周大舟"]}}, 'name "周大舟" is not in the text "周小舟在渝北图书馆读'),
        ({"text": TEXT, "label": {"name": {"周小舟": []}}}, 'name "周小舟" has the spans []'),
        ({"text": TEXT, "label": {"name": {"周小舟": [0]}}}, 'name "周小舟" has the spans [0]'),
        ({"text": TEXT, "label": {"name": {"周小舟": [[0, 3, 3]]}}}, "has the spans [[0, 3, 3]]"),
        (
            {"text": TEXT, "label": {"name": {"周小舟": [[0, 2]]}}},
            "if this file's are inclusive, as CLUENER's are, add 1 to each",
        ),
        (items(text="周"), 'the span [0, 3) holds "周小舟", the surface is "周"'),
        (items(text="图书馆"), 'the surface is "图书馆"; it stands at [6, 9); correct it'),
        (items(text="渝北"), 'the surface is "渝北"; correct it'),
        (items(surface="周"), 'holds "周小舟", the surface is "周"'),
        (items(text="周小舟", surface=None), 'holds "周小舟", the surface is null'),
        (items(end=17), "leaves the text, which has 16 characters"),
        (items(start=-3), "the span [-3, 3) of name"),
        (items(start=3), "the span [3, 3) of name"),
        (items(start=False), "the span [false, 3) of name"),
        (items(end=True), "the span [0, true) of name"),
        (items(end=3.0), "the span [0, 3.0) of name"),
        (items(end="3"), 'the span [0, "3") of name'),
        (items(label=3), "the label is 3"),
        (items(label="nmae"), 'label "nmae" is unknown; did you mean "name"?'),
        (items(score=1.5), "has the score 1.5"),
        (items(score=True), "has the score true"),
        (items(score=float("nan")), "has the score NaN"),
        ({"text": TEXT, "entities": {}}, '"entities" is {}'),
        ({"text": TEXT, "entities": ["周小舟"]}, 'the entity "周小舟" lacks label, start, end'),
        ({"text": TEXT, "entities": [{"label": "name", "start": 0}]}, "lacks end"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_line_value_and_remedy(tmp_path, row, fault):
    (told,) = faults_of(tmp_path, GOOD, row)
    assert told.startswith("rows.jsonl:2: ")
    assert fault in told
    assert re.search(r"; \S|\. Ends are exclusive here; ", told), "no remedy"


@pytest.mark.parametrize(
    "annotation",
    [
        {"label": {"name": ["周小舟", "周小舟"]}},
        {"label": {"name": {"周小舟": [[0, 3], [0, 3]]}}},
        {"entities": [{"label": "name", "start": 0, "end": 3}] * 2},
        {"label": [[0, 3, "name"]] * 2},
    ],
)
def test_an_entity_that_is_given_twice_is_one_and_said(tmp_path, annotation, caplog):
    (example,) = read_dataset(str(file_of(tmp_path, {"text": TEXT, **annotation})), "train")
    assert example.entities == (NAME,)
    assert "given twice, read as one: 1 (rows.jsonl:1)" in caplog.text


def test_the_same_id_twice_names_the_first_line(tmp_path):
    assert faults_of(tmp_path, GOOD | {"id": "a"}, GOOD, GOOD | {"id": "a"}) == [
        'rows.jsonl:3: the id "a" is line 1\'s too; give each row its own'
    ]
    # A number and its digits are one id in the end, and a default id may be taken already.
    assert len(faults_of(tmp_path, GOOD | {"id": 7}, GOOD | {"id": "7"})) == 1
    assert len(faults_of(tmp_path, GOOD | {"id": 2}, GOOD)) == 1


def test_any_depth_of_nesting_is_a_fault_and_never_a_crash(tmp_path):
    for depth in range(100, 3_000, 100):
        assert len(faults_of(tmp_path, '{"text": ' + "[" * depth + "]" * depth + "}")) == 1


def test_all_faults_of_a_file_come_at_once(tmp_path):
    bad = {
        "text": TEXT,
        "label": {"nam": ["周小舟"], "name": ["周大舟"], "book": {"渝北": [[0, 2], [4, 99]]}},
        "id": [],
    }
    rows = [GOOD, bad, "{", *[{"label": {}}] * 30]
    path = file_of(tmp_path, *rows)
    with pytest.raises(DataError) as error:
        list(jsonl.read(path, CLUENER))
    told = str(error.value).splitlines()
    assert [fault.split(":")[1] for fault in error.value.faults] == ["2"] * 5 + ["3"] + [str(n) for n in range(4, 34)]
    assert told[0] == f"{path} has 36 faults in 33 rows"
    assert told[1:21] == [f"  {fault}" for fault in error.value.faults[:20]]
    assert told[21:] == ["  … and 16 more"]


def test_the_error_survives_pickling_between_processes():
    error = DataError("rows.jsonl", ["rows.jsonl:1: no"], 1)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.faults, again.rows) == (str(error), error.faults, 1)
    assert str(error).startswith("rows.jsonl has 1 fault in 1 row\n")


@pytest.mark.parametrize("content", [b"", b"\n \r\n", codecs.BOM_UTF8])
def test_a_file_without_rows_is_refused(tmp_path, content):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(NerError, match="no rows") as error:
        list(jsonl.read(tmp_path / "rows.jsonl"))
    assert error.value.place == str(tmp_path / "rows.jsonl")
    assert "one JSON object a line" in error.value.remedy


def test_a_missing_file_is_named(tmp_path):
    for path, reason in ((tmp_path / "gone.jsonl", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(NerError, match=reason) as error:
            list(jsonl.read(path))
        assert error.value.place == path
        assert str(Path.cwd()) in error.value.remedy


def test_labels_are_checked_against_a_set_or_derived(tmp_path):
    path = file_of(tmp_path, {"text": "阿司匹林治头痛", "label": {"疾病": ["头痛"], "药品": ["阿司匹林"]}})
    examples = list(jsonl.read(path))
    assert labels_of(examples).names == tuple(sorted(["药品", "疾病"]))
    assert list(jsonl.read(path, labels_of(examples))) == examples
    with pytest.raises(DataError):
        list(jsonl.read(path, CLUENER))
    with pytest.raises(NerError) as error:
        labels_of([Example("0", "无")])
    assert "`labels`" in error.value.remedy


def random_examples(seed: int) -> list[Example]:
    generator = random.Random(seed)
    alphabet = '甲乙丙😀é"\\\t\u2028\x00 {}\u0301ａA'
    examples = []
    for number in range(20):
        text = "字" + "".join(generator.choices(alphabet, k=generator.randint(0, 12)))
        entities = {}
        for _ in range(generator.randint(0, 4)):
            start = generator.randrange(len(text))
            end = generator.randint(start + 1, len(text))
            label, score = generator.choice(["名", "name", 'la"bel']), generator.choice([None, generator.random(), 0.0])
            entities[label, start, end] = Entity(label, text[start:end], start, end, score)
        examples.append(Example(f"{number}-{generator.choice(alphabet)}", text, tuple(entities.values())))
    return examples


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_is_read_back(tmp_path, seed):
    examples = random_examples(seed)
    write_jsonl(tmp_path / "new" / "out.jsonl", examples)
    again = list(jsonl.read(tmp_path / "new" / "out.jsonl"))
    assert [(e.id, e.text, e.entities) for e in again] == [(e.id, e.text, e.entities) for e in examples]
    assert os.listdir(tmp_path / "new") == ["out.jsonl"]


@pytest.mark.parametrize(
    "examples",
    [
        [],
        [Example("0", "")],
        [Example("0", "一"), Example("0", "二")],
        [Example("0", "\ud800")],
        [Example("\ud800", "一")],
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, examples):
    path = file_of(tmp_path, GOOD)
    before = path.read_bytes()
    with pytest.raises(NerError) as error:
        write_jsonl(path, examples)
    assert str(error.value.place) == str(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_write_that_fails_midway_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = file_of(tmp_path, GOOD)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(NerError, match="No space left") as error:
        write_jsonl(path, [Example("0", "一")])
    assert error.value.place == path
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_plain_lines_are_texts():
    lines = ["  头\r\n".encode(), b"\n", "\u3000\n".encode(), "尾\u2028巴".encode()]
    assert list(read_texts(lines, "in.txt")) == [
        TextRow("1", "  头", "in.txt:1"),
        TextRow("4", "尾\u2028巴", "in.txt:4"),
    ]


def test_jsonl_is_known_by_its_first_line_and_bad_lines_keep_their_place():
    lines = [b"\n", b'{"text": "a", "id": 5}\n', b"{\n", b'{"id": "x"}\n', b"\xff\n", b'{"text": "b"}\n']
    rows = list(read_texts(lines, "in"))
    assert [(row.id, row.text) for row in rows] == [("5", "a"), ("3", None), ("x", None), ("5", None), ("6", "b")]
    assert [row.source for row in rows] == [f"in:{n}" for n in range(2, 7)]
    faults = [row.fault or "" for row in rows]
    assert [fault.partition("; ")[0] for fault in faults] == [
        "",
        'in:3: "{" is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))',
        'in:4: {"id": "x"} lacks "text"',
        "in:5: byte 0xff at offset 0 of the line is not UTF-8",
        "",
    ]
    assert list(read_texts([codecs.BOM_UTF8 + b'{"text": "a"}'], "in")) == [TextRow("1", "a", "in:1")]


def test_a_broken_first_line_does_not_turn_a_jsonl_file_into_plain_text():
    rows = list(read_texts([b'{"text": "a"', b'{"text": "b"}'], "in.jsonl"))
    assert [row.text for row in rows] == [None, "b"]


@pytest.mark.parametrize(
    "lines",
    [
        ['[{"text": "一"}, {"text": "二"}]'],
        ["[", '{"text": "一"},', "{", "]"],
        ["\ufeff[", '  {"text": "一"}', "]"],
        ["{", ' "text": "一"', "}"],
        ['{"text": "一",', '"id": 1}'],
        ['[{"text": "一"},'],
        ['["一", "二"]'],
        ["[]"],
        ["", '{"content": "一"}', '{"content": "二"}'],
        ['{"text": "一", }'],
        ["{'text': '一'}"],
        ['{"text": "一"}{"text": "二"}'],
    ],
)
@pytest.mark.parametrize("source", ["in.json", "standard input", "in.txt"])
def test_json_that_is_not_a_row_a_line_is_refused_instead_of_read_as_sentences(lines, source):
    with pytest.raises(NerError) as caught:
        next(read_texts([line.encode() + b"\n" for line in lines], source))
    assert caught.value.place == source
    assert '{"text": …} a line' in caught.value.remedy


@pytest.mark.parametrize(
    "line",
    ["[图片] 三星在北京", "[1] 三星", "[1]", "[1, 2]", "{三星}在北京", '"三星"', "[三星", '{"三星"在北京}', "{}三星"],
)
def test_a_sentence_may_begin_with_a_bracket(line):
    first, second = read_texts([line.encode(), '[{"text": "一"}]'.encode()], "in.txt")
    assert (first.text, second.text) == (line, '[{"text": "一"}]')


def test_an_old_workbook_is_to_be_saved_anew_as_nothing_converts_it():
    with pytest.raises(NerError) as error:
        next(read_texts(iter([b"\xd0\xcf\x11\xe0"]), "in.XLS"))
    assert "save it as .xlsx" in error.value.remedy


@pytest.mark.parametrize("name", ["in.csv", "in.TSV", "in.xlsx", "in.parquet"])
def test_a_table_is_refused(name):
    with pytest.raises(NerError) as caught:
        next(read_texts([b"text\n"], name))
    assert caught.value.place == name


def test_texts_come_one_by_one_as_the_lines_do():
    taken = []

    def lines():
        for line in (b"a\n", b"b\n", b"c\n"):
            taken.append(line)
            yield line

    rows = read_texts(lines(), "standard input")
    assert taken == []
    assert next(rows).text == "a"
    assert taken == [b"a\n"]


def test_a_plain_text_that_is_no_utf8_comes_back_as_a_fault():
    first, second = read_texts(["周".encode("gbk"), "周".encode()], "in.txt")
    assert first.text is None
    assert "in.txt:1: byte 0xd6 at offset 0" in str(first.fault)
    assert second == TextRow("2", "周", "in.txt:2")


INCLUSIVE = {"text": TEXT, "label": {"name": {"周小舟": [[0, 2]]}}}


def test_a_dataset_may_be_a_folder_or_a_file_and_the_ending_tells_the_dialect(tmp_path):
    file_of(tmp_path, GOOD, name="train.jsonl")
    file_of(tmp_path, INCLUSIVE, name="dev.json")
    file_of(tmp_path, {"text": TEXT}, name="test.json")
    folder = str(tmp_path)
    (train,), (dev,), (test,) = (read_dataset(folder, split, labels=CLUENER) for split in ("train", "dev", "test"))
    assert train.entities == dev.entities == (NAME,)
    assert test.entities == ()
    assert (train.source, dev.source) == ("train.jsonl:1", "dev.json:1")
    assert [has_split(folder, split) for split in ("train", "dev", "test", "validation")] == [True, True, True, False]
    for name, split in (("train.jsonl", "dev"), ("dev.json", "anything")):
        assert read_dataset(f"{folder}/{name}", split)[0].entities == (NAME,)
        assert not has_split(f"{folder}/{name}", "train")
    with pytest.raises(NerError) as error:
        read_dataset(folder, "validation")
    assert (error.value.place, error.value.value) == (folder, "validation")
    assert "validation.jsonl, validation.json or" in error.value.remedy


def test_half_open_and_inclusive_files_are_not_taken_for_each_other(tmp_path):
    file_of(tmp_path, INCLUSIVE, name="train.jsonl")
    file_of(tmp_path, {"text": TEXT, "label": {"name": {"周小舟": [[0, 3]]}}}, name="dev.json")
    for dataset, split, said in (
        (tmp_path, "train", "add 1 to each"),
        (tmp_path, "dev", "name it .jsonl"),
    ):
        with pytest.raises(DataError) as error:
            read_dataset(str(dataset), split)
        (fault,) = error.value.faults
        assert said in fault


@pytest.mark.parametrize(
    ("split", "names"), [("train", ["train.jsonl", "train.bio"]), ("dev", ["dev.jsonl", "val.jsonl"])]
)
def test_two_files_for_one_split_are_refused_by_name(tmp_path, split, names):
    for name in names:
        file_of(tmp_path, GOOD, name=name)
    with pytest.raises(NerError) as error:
        read_dataset(str(tmp_path), split)
    assert (error.value.place, error.value.value) == (tmp_path, names)
    assert error.value.remedy


@pytest.mark.parametrize("name", ["dev", "validation", "valid", "val"])
def test_each_name_of_the_dev_split_is_found(tmp_path, name):
    file_of(tmp_path, GOOD, name=f"{name}.jsonl")
    assert has_split(str(tmp_path), "dev")
    assert [example.source for example in read_dataset(str(tmp_path), "dev")] == [f"{name}.jsonl:1"]


def test_the_sample_ships_with_the_package():
    assert [has_split("sample", split) for split in ("train", "dev", "nonsense")] == [True, True, False]
    examples = read_dataset("sample", "train", labels=CLUENER)
    assert examples[0].source == "train.jsonl:1"
    assert len({example.id for example in examples}) == len(examples)
    with pytest.raises(NerError) as error:
        read_dataset("sample", "nonsense")
    assert (error.value.place, error.value.value) == ("sample", "nonsense")


def test_what_is_no_dataset_is_told_what_may_be_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("一")
    with pytest.raises(NerError, match="unknown format") as error:
        read_dataset("notes.txt", "train")
    assert error.value.place == Path("notes.txt")
    for call in (read_dataset, has_split):
        with pytest.raises(NerError) as error:
            call("cluner", "train")
        assert error.value.place == "cluner"
        assert error.value.remedy.endswith('did you mean "cluener"?')
        with pytest.raises(NerError) as error:
            call("sample", "train", data_dir=tmp_path)
        assert (error.value.place, error.value.value) == ("data_dir", str(tmp_path))


def test_a_named_dataset_is_not_shadowed_by_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample").mkdir()
    file_of(tmp_path / "sample", GOOD, name="train.jsonl")
    assert len(read_dataset("./sample", "train")) == 1
    assert len(read_dataset("sample", "train")) > 1


def test_cluener_by_name_takes_its_folder(tmp_path):
    file_of(tmp_path, INCLUSIVE, name="train.json")
    (example,) = read_dataset("cluener", "train", labels=CLUENER, data_dir=tmp_path)
    assert example == Example("1", TEXT, (NAME,), "train.json:1")
    assert has_split("cluener", "train", tmp_path)
    assert not has_split("cluener", "dev", tmp_path)


def test_reading_files_loads_no_heavy_library():
    code = (
        "import sys; from qwen_ner.data import datasets, split; from qwen_ner.data.formats import cluener; datasets.read_dataset('sample', 'dev'); "
        "print(sorted({'torch', 'transformers', 'datasets', 'tqdm', 'numpy', 'filelock'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
