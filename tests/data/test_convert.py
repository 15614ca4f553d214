"""Laws of converting: the format is told by the content, what comes back is what went in, and nothing is lost unsaid."""

from __future__ import annotations

import json
import logging
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import EIGHT

from qwen_ner import cli
from qwen_ner.data.analysis.findings import Finding, write_findings
from qwen_ner.data.convert import convert
from qwen_ner.data.datasets import has_split, read_dataset, write_jsonl
from qwen_ner.data.formats.errors import DataError
from qwen_ner.data.formats.registry import FORMATS, detect, open_source, writers
from qwen_ner.data.formats.tagged.bio import VARIANTS
from qwen_ner.entities import Entity, Example, NerError

FLAT = [Example(str(at), e.text, e.entities) for at, e in enumerate(EIGHT, start=1)]
TEXT = "北京大学在北京"
OUTER, INNER = Entity("organization", "北京大学", 0, 4), Entity("address", "北京", 0, 2)
NESTED = Example("5", TEXT, (OUTER, INNER, Entity("address", "北京", 5, 7)))


def name_of(to):
    """A file name that does not tell the format, where the format can do without."""
    return {"cluener": "x.json"}.get(to, f"x.{to}" if to in ("parquet", "csv", "xlsx") else "x.txt")


def said(examples):
    return [(e.text, e.entities) for e in examples]


@pytest.fixture
def flat(tmp_path):
    write_jsonl(tmp_path / "flat.jsonl", FLAT)
    return str(tmp_path / "flat.jsonl")


@pytest.fixture
def nested(tmp_path):
    write_jsonl(tmp_path / "nested.jsonl", [*FLAT, Example("n", TEXT, NESTED.entities)])
    return str(tmp_path / "nested.jsonl")


@pytest.mark.parametrize("to", writers())
def test_each_format_goes_out_is_known_again_and_comes_back(tmp_path, flat, to):
    there, back = tmp_path / name_of(to), tmp_path / "back.jsonl"
    assert convert(flat, there, to=to).entities == sum(len(e.entities) for e in FLAT)
    assert to in getattr(detect(there), "VARIANTS", (detect(there).NAME,))
    convert(str(there), back)
    assert read_dataset(str(back), "any") == [
        Example(e.id, e.text, e.entities, f"back.jsonl:{n}") for n, e in enumerate(FLAT, 1)
    ]
    assert sorted(os.listdir(tmp_path)) == sorted(["flat.jsonl", there.name, "back.jsonl"])


@pytest.mark.parametrize("to", ["jsonl", "cluener", "doccano", "label-studio", "csv", "xlsx"])
@given(seed=st.integers(0, 10_000))
def test_formats_of_spans_hold_anything(tmp_path_factory, to, seed):
    """Nested, overlapping, any character, ids of their own; scores where the format has them.

    Where spans come without surfaces, it cannot be told what offsets behind 😀 count.
    """
    characters = '甲"\\\n\u2028 {ａ无=' + "😀" * (to != "doccano") + "\x00" * (to != "xlsx")
    folder, generator = tmp_path_factory.getbasetemp(), random.Random(seed)
    examples = []
    for number in range(3):
        text = "字" + "".join(generator.choices(characters, k=generator.randint(0, 8)))
        spans = {(generator.choice("AB"), *sorted(generator.sample(range(len(text) + 1), 2))) for _ in range(4)}
        score = generator.choice([None, 0.5]) if to in ("jsonl", "label-studio") else None
        spans = {span for span in spans if text[span[1] : span[2]].strip() == text[span[1] : span[2]]}
        entities = tuple(Entity(label, text[start:end], start, end, score) for label, start, end in spans)
        examples.append(Example(f"{number}-x", text, entities))
    write_jsonl(folder / "in.jsonl", examples)
    losses = convert(str(folder / "in.jsonl"), folder / name_of(to), to=to).losses
    again = open_source(str(folder / name_of(to)), None).examples(None)
    assert [(e.id, e.text, e.entities) for e in again] == [(e.id, e.text, e.entities) for e in examples]
    assert not losses.counts


@pytest.mark.parametrize("to", ["bio2", "bmes", "parquet"])
def test_what_tags_cannot_hold_is_refused_with_its_place_or_left_out_and_listed(tmp_path, nested, to, caplog):
    target = tmp_path / "out.x"
    target.write_text("old")
    with pytest.raises(NerError) as error:
        convert(nested, target, to=to)
    assert (error.value.place, error.value.what) == (
        target, f"{to} cannot hold all of {nested}, so nothing is written",
    )  # fmt: skip
    assert error.value.remedy.splitlines() == [
        "give --lossy to leave this out, or choose jsonl, which holds everything:",
        *(["ids: 1 (nested.jsonl:9)"] if to != "parquet" else []),
        'nested or overlapping entities: 1 (nested.jsonl:9: address "北京" [0, 2))',
    ]
    assert target.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["nested.jsonl", "out.x"]
    with caplog.at_level(logging.INFO):
        result = convert(nested, tmp_path / "out.parquet" if to == "parquet" else target, to=to, lossy=True)
    assert 'nested or overlapping entities: 1 (nested.jsonl:9: address "北京" [0, 2))' in caplog.text
    assert result.losses.counts["nested or overlapping entities"] == 1
    again = list(open_source(str(tmp_path / "out.parquet" if to == "parquet" else target), None).examples(None))
    assert said(again) == [*said(FLAT), (TEXT, (OUTER, NESTED.entities[2]))]
    assert result.entities == sum(len(e.entities) for e in again)


def test_of_many_losses_ten_are_listed_and_all_are_counted(tmp_path, caplog):
    rows = [Example(f"id{n}", "三星", (Entity("company", "三星", 0, 2, 0.5),)) for n in range(25)]
    write_jsonl(tmp_path / "in.jsonl", rows)
    result = convert(str(tmp_path / "in.jsonl"), tmp_path / "out.bio")
    assert result.losses.counts == {"scores": 25, "ids": 25}
    places = ", ".join(f"in.jsonl:{n}" for n in range(1, 11))
    assert str(result.losses).splitlines() == [f"{what}: 25 ({places} and 15 more)" for what in ("scores", "ids")]
    assert "Not in" in caplog.text


def test_a_line_break_in_a_text_is_no_token(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [Example("1", "三\n星", (Entity("company", "三\n星", 0, 3),))])
    with pytest.raises(NerError) as error:
        convert(str(tmp_path / "in.jsonl"), tmp_path / "out.bio")
    assert error.value.place == tmp_path / "out.bio"
    assert "line breaks in texts, written as spaces: 1" in error.value.remedy
    convert(str(tmp_path / "in.jsonl"), tmp_path / "out.bio", lossy=True)
    assert said(read_dataset(str(tmp_path / "out.bio"), "train")) == [("三 星", (Entity("company", "三 星", 0, 3),))]


def test_a_file_may_begin_with_what_looks_like_its_mark(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [Example("1", "\ufeff三", (Entity("A", "三", 1, 2),))])
    convert(str(tmp_path / "in.jsonl"), tmp_path / "out.bio")
    assert said(read_dataset(str(tmp_path / "out.bio"), "train")) == [("\ufeff三", (Entity("A", "三", 1, 2),))]


def test_other_keys_columns_and_document_marks_are_listed(tmp_path):
    rows = [{"text": "好", "entities": [{"label": "a", "start": 0, "end": 1, "note": "?"}], "from": "web"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert convert(str(tmp_path / "in.jsonl"), tmp_path / "out.json").losses.places == {
        'the key "from"': ["in.jsonl:1"], 'the key "note" of entities': ["in.jsonl:1"],
    }  # fmt: skip
    (tmp_path / "in.conll").write_text("-DOCSTART- -X- O\n\n三 NR B-A\n")
    assert convert(str(tmp_path / "in.conll"), tmp_path / "out.jsonl").losses.counts == {
        "columns that are neither token nor tag: 2 of 3": 1, "document marks": 1,
    }  # fmt: skip


def test_a_fault_leaves_no_file_and_a_repair_is_listed(tmp_path, caplog):
    (tmp_path / "in.txt").write_text("三\tB-A\n星\tI-A\n\n三\tB-A\n\n三\tO\n星\tI-A\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        convert(str(tmp_path / "in.txt"), tmp_path / "out.jsonl")
    assert [fault.split(";")[0] for fault in error.value.faults] == ["in.txt:7: I-A follows O"]
    assert os.listdir(tmp_path) == ["in.txt"]
    convert(str(tmp_path / "in.txt"), tmp_path / "out.jsonl", repair=True)
    assert "tags out of order, read as conlleval does: 1 (in.txt:7: I-A follows O)" in caplog.text
    assert [e.text for e in read_dataset(str(tmp_path / "out.jsonl"), "train")[2].entities] == ["星"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, flat, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "out.bio").write_text("old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(NerError, match="No space left") as error:
        convert(flat, tmp_path / "out.bio")
    assert error.value.place == tmp_path / "out.bio"
    assert (tmp_path / "out.bio").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["flat.jsonl", "out.bio"]


def test_where_to_write_must_be_clear(tmp_path, flat):
    for target, to, value, remedy in (
        (tmp_path / "out", None, None, "give --to one of jsonl, cluener"),
        (tmp_path / "out.bio", "biose", "biose", "give --to one of jsonl, cluener"),
        (tmp_path, "jsonl", None, "name another file"),
        (Path(flat), None, None, "name another file"),
    ):
        with pytest.raises(NerError) as error:
            convert(flat, target, to=to)
        assert (error.value.place, error.value.value) == (target, value)
        assert error.value.remedy.startswith(remedy)


def test_a_folder_and_a_named_data_set_need_a_split(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "dev.jsonl", FLAT)
    for source in (str(tmp_path), "sample", "cluener"):
        with pytest.raises(NerError) as error:
            convert(source, tmp_path / "out.bio")
        assert error.value.place == source
        assert "--split" in error.value.remedy
    (tmp_path / "test.json").write_text('{"text": "雨"}', encoding="utf-8")
    monkeypatch.setenv("QWEN_NER_DATA", str(tmp_path))
    with pytest.raises(DataError, match='lacks "label"'):
        convert("cluener", tmp_path / "out.bio", split="test")
    assert convert(str(tmp_path), tmp_path / "out.bio", split="dev").rows == len(FLAT)
    assert convert("sample", tmp_path / "out.bio", split="dev").rows == 300


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("x.txt", '{"text": "三", "label": {}}', "jsonl"),
        ("x.json", '{"text": "三", "label": {}}', "cluener"),
        ("x.json", '{"text": "三"}', "cluener"),
        ("x.jsonl", '{"text": "三", "entities": []}\n{"text": "三", "entities": [{"label": "a", "start": 0, "end": 1}]}', "jsonl"),
        ("x.jsonl", '{"text": "三", "entities": []}\n{"text": "三", "entities": [{"label": "a", "start_offset": 0}]}', "doccano"),
        ("x.jsonl", '{"text": "三", "entities": [], "relations": []}', "doccano"),
        ("x.json", '{"text": "三", "label": []}', "doccano"),
        ("x.jsonl", "{broken\n", "jsonl"),
        ("x.jsonl", '{"text": "三"\n{"text": "三", "label": [[0, 1, "a"]]}', "jsonl"),
        ("x.jsonl", '{"text": broken}\n{"text": "三", "label": [[0, 1, "a"]]}', "doccano"),
        ("x.jsonl", "[1]", "jsonl"),
        ("x.json", "[1]", "cluener"),
        ("x.json", '[\n {"data": {}}]', "label-studio"),
        ("x.txt", '[{"data": {}}]', "label-studio"),
        ("x.jsonl", '{"tokens": ["三"], "ner_tags": ["O"]}', "parquet"),
        ("x.txt", "[\tO\n三\tB-A\n", "bio"),
        ("x.txt", "{ O\n} B-A\n", "bio"),
        ("x.txt", "\ufeff-DOCSTART-\tO\r\n\r\n三\tB-A\r\n", "bio"),
        ("x.tsv", "三\tNR\tB-drug name\n星\tNR\tI-drug name\n", "bio"),
        ("x.txt", "三 ORG\n星 ORG\n在 O\n", "bio"),
        ("x.bio", "nothing of the kind", "bio"),
    ],
)  # fmt: skip
def test_a_format_is_told_by_the_content(tmp_path, name, content, found):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert found == detect(tmp_path / name).NAME


@pytest.mark.parametrize("content", ["", "一\n二\n", "blood group O\nand\nothers\n", "text,label\n三,A\n"])
def test_what_is_no_format_is_told_what_is_read(tmp_path, content):
    (tmp_path / "x.txt").write_text(content, encoding="utf-8")
    with pytest.raises(NerError) as error:
        detect(tmp_path / "x.txt")
    assert error.value.place == tmp_path / "x.txt"
    assert all(format.DESCRIPTION in error.value.remedy for format in FORMATS)


@pytest.mark.parametrize("to", ["bio2", "bmes", "doccano", "label-studio", "parquet"])
def test_a_folder_of_any_format_is_a_data_set(tmp_path, flat, to, caplog):
    ending = {"doccano": "jsonl", "label-studio": "json", "parquet": "parquet"}.get(to, "txt")
    folder = tmp_path / "folder"
    for split in ("train", "validation"):
        convert(flat, folder / f"{split}.{ending}", to=to)
    with caplog.at_level(logging.INFO):
        assert said(read_dataset(str(folder), "train")) == said(read_dataset(str(folder), "dev")) == said(FLAT)
    assert f"train.{ending} is read as " in caplog.text
    assert [has_split(str(folder), split) for split in ("train", "dev", "test")] == [True, True, False]
    assert not has_split(str(folder / f"train.{ending}"), "dev")


def test_the_command_says_what_it_reads_and_writes(tmp_path, flat, caplog, capsys):
    with caplog.at_level(logging.INFO):
        cli.main(["convert", flat, str(tmp_path / "out.bmes")])
    assert caplog.messages == [
        f"{flat} is read as JSONL with half-open offsets",
        f"{tmp_path / 'out.bmes'} is written as bmes: 8 rows, 13 entities",
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        cli.main(["convert", str(tmp_path / "out.bmes"), str(tmp_path / "again"), "--to", "doccano"])
    assert caplog.messages[0].endswith("is read as BMES, one character a line, separated by tabs")
    with pytest.raises(SystemExit, match=r"^error: .*/out\.bio: cannot be written"):
        cli.main(["convert", flat, f"{flat}/out.bio"])


def test_cluener_dev_comes_back_from_every_scheme(cluener_dir, tmp_path):
    dev = read_dataset("cluener", "dev", data_dir=cluener_dir)
    for to in (*VARIANTS, "parquet"):
        there = tmp_path / f"dev.{to}"
        convert(str(cluener_dir / "dev.json"), there, to=to)
        convert(str(there), tmp_path / "dev.json")
        again = read_dataset("cluener", "dev", data_dir=tmp_path)
        assert said(again) == said(dev)


def test_corrections_are_applied_on_the_way_and_twice_is_once(tmp_path, flat, caplog):
    caplog.set_level(logging.INFO)
    other = Entity("company", "北京", 2, 4)
    finding = Finding(0, FLAT[0], "label", 0.9, FLAT[0].entities[0], other, "because")
    write_findings(tmp_path / "f.jsonl", [finding])
    convert(flat, tmp_path / "out.jsonl", corrections=tmp_path / "f.jsonl")
    assert "1 correction applied: 1 label\n" in caplog.text
    convert(str(tmp_path / "out.jsonl"), tmp_path / "again.jsonl", corrections=tmp_path / "f.jsonl")
    assert "0 corrections applied; 1 were applied before" in caplog.text
    once, again = (read_dataset(str(tmp_path / name), "any") for name in ("out.jsonl", "again.jsonl"))
    assert (said(once), [e.id for e in once]) == (said(again), [e.id for e in again])
    assert [e.id for e in once] == [e.id for e in FLAT]
    assert once[0].entities == (other, FLAT[0].entities[1])
    assert said(once[1:]) == said(FLAT[1:])


def test_corrections_do_not_bring_back_labels_that_are_left_out(tmp_path, flat):
    with pytest.raises(NerError, match="of all labels") as error:
        convert(flat, tmp_path / "out.jsonl", corrections=tmp_path / "f.jsonl", keep=["company"])
    assert error.value.place == "corrections"


def test_corrections_of_other_data_are_refused_and_nothing_is_written(tmp_path, flat):
    stranger = Example("77", "三星", (), "x:1")
    write_findings(
        tmp_path / "f.jsonl",
        [Finding(0, stranger, "added", 0.9, None, Entity("company", "三星", 0, 2), "because")],
    )
    with pytest.raises(NerError) as error:
        convert(flat, tmp_path / "out.jsonl", corrections=tmp_path / "f.jsonl")
    assert error.value.place == str(tmp_path / "f.jsonl")
    assert sorted(os.listdir(tmp_path)) == ["f.jsonl", "flat.jsonl"]
