"""Data sets as they are published: small inputs of the same forms, with what is right."""

import pytest

from qwen_ner.data.datasets import read_all
from qwen_ner.data.formats.errors import DataError
from qwen_ner.data.formats.registry import open_source
from qwen_ner.data.overview import look


def read(path, warned=None, **options):
    note = (lambda what, where: warned.append((what, where))) if warned is not None else (lambda *_: None)
    examples = open_source(str(path), None).examples(warn=note, **options)
    return [(e.text, [(entity.label, entity.text, entity.start) for entity in e.entities]) for e in examples]


def lines(path, *rows, separator="\t"):
    path.write_text("".join(separator.join(row) + "\n" if row else "\n" for row in rows), encoding="utf-8")
    return path


def test_tags_of_several_levels_are_all_read(tmp_path):
    """GermEval: an index, the token, tags, and tags of what is nested in them."""
    rows = [
        ("#", "http://example.org", "[2010-07-04]"),
        ("1", "Die", "O", "O"),
        ("2", "Bank", "B-ORG", "O"),
        ("3", "Berlin", "I-ORG", "B-LOC"),
        (),
        ("1", "Bonn", "B-LOC", "O"),
        ("2", "schläft", "O", "O"),
        (),
        ("1", "Uni", "B-ORG", "O"),
        ("2", "Bonn", "I-ORG", "B-LOC"),
    ]
    warned = []
    assert read(lines(tmp_path / "train.tsv", *rows), warned) == [
        ("Die Bank Berlin", [("ORG", "Bank Berlin", 4), ("LOC", "Berlin", 9)]),
        ("Bonn schläft", [("LOC", "Bonn", 0)]),
        ("Uni Bonn", [("ORG", "Uni Bonn", 0), ("LOC", "Bonn", 4)]),
    ]
    assert any("2 columns of tags" in what for what, _ in warned)


def test_chunks_beside_the_tags_are_no_level(tmp_path):
    """CoNLL-2003: parts of speech, chunks, tags."""
    rows = [("EU", "NNP", "B-NP", "B-ORG"), ("rejects", "VBZ", "B-VP", "O"), ("London", "NNP", "B-NP", "B-LOC")]
    assert read(lines(tmp_path / "train.conll", *rows, separator=" ")) == [
        ("EU rejects London", [("ORG", "EU", 0), ("LOC", "London", 11)])
    ]


def test_the_language_before_each_token_is_no_text(tmp_path):
    """WikiANN: pt:perda."""
    rows = [("pt:Os", "O"), ("pt:Brasil", "B-LOC"), ("pt::", "O"), (), ("pt:Rio", "B-LOC")]
    warned = []
    assert read(lines(tmp_path / "dev.bio", *rows), warned) == [
        ("Os Brasil :", [("LOC", "Brasil", 3)]),
        ("Rio", [("LOC", "Rio", 0)]),
    ]
    assert any("pt:" in what for what, _ in warned)
    rows = [("at:home", "O"), ("Brasil", "B-LOC")]
    assert read(lines(tmp_path / "dev.bio", *rows)) == [("at:home Brasil", [("LOC", "Brasil", 8)])]


def test_an_index_that_is_out_of_order_is_a_fault_or_repaired(tmp_path):
    """Weibo: 科0 技1, and once an index that does not follow."""
    rows = [("科0", "O"), ("技1", "O"), ("北0", "B-LOC"), ("京1", "I-LOC"), ("好2", "O"), ("越2", "O")]
    path = lines(tmp_path / "train.conll", *rows)
    with pytest.raises(DataError, match=r"越2.*--repair"):
        read(path)
    warned = []
    assert read(path, warned, repair=True) == [("科技北京好越", [("LOC", "北京", 2)])]
    assert any("越2" in where for _, where in warned)


def test_a_byte_order_mark_amid_a_file_separates_sentences(tmp_path):
    """W-NUT 17: files put one after the other."""
    path = lines(tmp_path / "dev.conll", ("Bonn", "B-LOC"), (), ("\ufeff",), ("Rio", "B-LOC"))
    assert read(path) == [("Bonn", [("LOC", "Bonn", 0)]), ("Rio", [("LOC", "Rio", 0)])]


def test_marks_inside_marks_and_a_mark_twice(tmp_path):
    """Boson: {{a:{{a:…}}}}, which is one entity."""
    (tmp_path / "a.txt").write_text(
        "{{product:{{product:淘宝}}}}在{{org:{{place:北京}}大学}}\n{{time:今天}}\n", encoding="utf-8"
    )
    warned = []
    assert read(tmp_path / "a.txt", warned) == [
        ("淘宝在北京大学", [("product", "淘宝", 0), ("place", "北京", 3), ("org", "北京大学", 3)]),
        ("今天", [("time", "今天", 0)]),
    ]
    assert warned == [("entities that are given twice, read as one", "a.txt:1")]
    (tmp_path / "a.txt").write_text("{{time:今天}}好}}\n{{time:今天\n{{time:今天}}\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.txt")
    assert [fault.split(": ")[0] for fault in error.value.faults] == ["a.txt:1", "a.txt:2"]


def test_tokens_and_tags_with_commas_and_no_header(tmp_path):
    """E-NER: -DOCSTART-,O and ",",O."""
    rows = '-DOCSTART-,O\n,O\nFee,O\n"(,)",O\n,O\nNew,I-BUS\nYork,I-BUS\n",",O\n,\nBonn,I-LOC\n'
    (tmp_path / "all.csv").write_text(rows, encoding="utf-8")
    assert read(tmp_path / "all.csv") == [
        ("Fee (,)", []),
        ("New York ,", [("BUS", "New York", 0)]),
        ("Bonn", [("LOC", "Bonn", 0)]),
    ]


TOKENS, TAGS = "三 星 在 北 京\n今 天 好\n", "B-company I-company O B-address I-address\nO O O\n"


@pytest.mark.parametrize(
    ("tokens", "tags"), [("source.txt", "target.txt"), ("all.txt", "all-label.txt"), ("x.txt", "x_tgt.txt")]
)
def test_a_folder_with_one_pair_of_files(tmp_path, tokens, tags):
    (tmp_path / tokens).write_text(TOKENS, encoding="utf-8")
    (tmp_path / tags).write_text(TAGS, encoding="utf-8")
    found = look(str(tmp_path))
    assert [example.text for example in found.train] == ["三星在北京", "今天好"]
    assert found.labels() == ["address", "company"]


def test_splits_of_pairs(tmp_path):
    for split in ("train", "dev"):
        (tmp_path / f"{split}.txt").write_text(TOKENS, encoding="utf-8")
        (tmp_path / f"{split}-label.txt").write_text(TAGS, encoding="utf-8")
    assert {split: len(rows) for split, rows in read_all(str(tmp_path)).items()} == {"train": 2, "dev": 2}


def test_of_several_files_the_only_one_that_can_be_read_is_taken_and_the_others_are_named(tmp_path, caplog):
    (tmp_path / "license.txt").write_text("You may use it.\n", encoding="utf-8")
    (tmp_path / "origindata.txt").write_text("{{time:今天}}好\n{{time:明天}}好\n", encoding="utf-8")
    with caplog.at_level("INFO"):
        assert len(look(str(tmp_path)).train) == 2
    assert "license.txt" in caplog.text


def test_a_folder_of_marked_documents(tmp_path):
    """CCKS: a file a patient."""
    for n in range(12):
        (tmp_path / f"病史-{n}.txt").write_text(f"{n}.患者<症状>头痛</症状>{n}天，体健。\n", encoding="utf-8")
    found = look(str(tmp_path))
    assert len(found.train) == 12
    assert {example.group for example in found.train} == {f"病史-{n}" for n in range(12)}
    assert found.labels() == ["症状"]
