"""Laws of rows without entities: no known surface, no cut inside a clause or a pair of marks, the same seed the same rows."""

from __future__ import annotations

import json
import os
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import example

from qwen_ner.data import negatives
from qwen_ner.data.datasets import read_dataset
from qwen_ner.data.formats.errors import DataError
from qwen_ner.data.negatives import SHORTEST, draw, entity_free, read_negatives
from qwen_ner.data.surfaces import Surfaces
from qwen_ner.entities import Entity, Example, NerError

letters = st.text('甲乙丙丁，。；！？,;《》“”" 1a', max_size=40)


@st.composite
def annotated(draw_):
    text = draw_(letters.filter(str.strip))
    starts = draw_(st.sets(st.integers(0, len(text) - 1), max_size=3))
    return Example("0", text, tuple(Entity("x", text[s : s + 2], s, s + len(text[s : s + 2])) for s in starts), "f:1")


@given(st.lists(annotated(), max_size=4), st.sets(st.text("甲乙丙丁", min_size=1, max_size=3), max_size=3))
def test_no_row_holds_a_known_surface_or_part_of_an_entity(examples, surfaces):
    with mock.patch.object(negatives, "SHORTEST", 2):
        cuts = entity_free(examples, surfaces)
    for cut in cuts:
        assert not cut.entities
        assert not any(surface in cut.text for surface in surfaces)
        assert len(cut.text) >= 2
        start, end = map(int, cut.source.split("[")[1].rstrip(")").split(", "))
        homes = [e for e in examples if e.text[start:end] == cut.text]
        assert any(not any(x.start < end and start < x.end for x in home.entities) for home in homes)


@given(st.lists(annotated(), max_size=4))
def test_no_text_comes_twice_and_pairs_of_marks_are_whole(examples):
    with mock.patch.object(negatives, "SHORTEST", 1):
        texts = [cut.text for cut in entity_free(examples, [])]
    assert len(texts) == len(set(texts))
    for text in texts:
        assert text.count("《") == text.count("》")
        assert text.count("“") == text.count("”")
        assert text.count('"') % 2 == 0


@given(st.sets(st.text("甲乙丙", min_size=1, max_size=4)), st.text("甲乙丙丁", max_size=20))
def test_surfaces_are_found_as_by_looking_for_each(surfaces, text):
    every = [(i, i + len(s)) for i in range(len(text)) for s in surfaces if text.startswith(s, i)]
    assert list(Surfaces(surfaces).places(text)) == sorted(every)


def cuts(text, *mentions, surfaces=()):
    return [cut.text for cut in entity_free([example(text, *mentions)], surfaces)]


def test_runs_are_as_long_as_they_go():
    text = "三星发布了新品，价格还没有定，颜色也没有定。北京有货！数量不多"
    assert cuts(text, ("company", "三星"), ("address", "北京")) == ["价格还没有定，颜色也没有定。"]
    assert cuts(text) == [text]
    assert cuts("太好了！价格还没有定。", ("movie", "太好了！")) == ["价格还没有定。"], (
        "what an entity ends, begins anew"
    )


def test_a_clause_with_what_another_row_annotates_is_left_out():
    assert cuts("价格还没有定，苹果也没有定。", surfaces=["苹果"]) == ["价格还没有定，"]


def test_numbers_and_times_are_not_cut():
    assert cuts("三星卖出了10,000台，真的很多很多", ("company", "三星")) == ["真的很多很多"]
    assert cuts("一共卖出10,000台,三星说", ("company", "三星")) == ["一共卖出10,000台,"]


def test_half_a_pair_of_marks_and_short_clauses_are_left_out():
    assert cuts("他们都说“不太好用，三星说", ("company", "三星")) == []
    assert cuts("他们都说“不太好用”，三星说", ("company", "三星")) == ["他们都说“不太好用”，"]
    assert cuts("太慢了，三星说", ("company", "三星")) == []
    assert len("太慢了，") < SHORTEST


def test_the_seed_decides_and_the_order_stays():
    candidates = [Example(str(n), f"第{n}句") for n in range(50)]
    drawn = draw(candidates, 20, seed=3)
    assert drawn == draw(tuple(candidates), 20, seed=3)
    assert [int(e.id) for e in drawn] == sorted({int(e.id) for e in drawn})
    assert len(drawn) == 20
    assert len({tuple(e.id for e in draw(candidates, 20, seed)) for seed in range(10)}) == 10
    assert draw(candidates, 50, 0) == draw(candidates, 99, 0) == candidates


def test_a_file_of_texts(tmp_path):
    lines = tmp_path / "calm.txt"
    lines.write_text("今天天气很好\n\n三星降价了\n今天天气很好\n明天见\n", encoding="utf-8")
    found, left_out = read_negatives(lines, ["三星"])
    assert [(e.id, e.text, e.source) for e in found] == [
        ("calm.txt:1", "今天天气很好", "calm.txt:1"),
        ("calm.txt:5", "明天见", "calm.txt:5"),
    ]
    assert left_out == 2
    jsonl = tmp_path / "calm.jsonl"
    jsonl.write_text(json.dumps({"id": "a", "text": "明天见"}), encoding="utf-8")
    assert read_negatives(jsonl, [])[0] == [Example("calm.jsonl:a", "明天见", (), "calm.jsonl:1")]


def test_faults_of_a_file_are_told_with_their_lines(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "好"}\n{"text": 3}\nno json\n', encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_negatives(path, [])
    assert (error.value.place, error.value.rows) == (str(path), 3)
    assert [fault.split(": ")[0] for fault in error.value.faults] == ["bad.jsonl:2", "bad.jsonl:3"]
    entity = '{"text": "买药", "entities": [{"label": "drug", "start": 1, "end": 2}]}'
    path.write_text('{"text": "好", "entities": []}\n' + entity + '\n{"text": "买药", "label": {"drug": ["药"]}}\n')
    with pytest.raises(DataError) as error:
        read_negatives(path, [])
    assert error.value.faults == [f"bad.jsonl:{line}: has entities; remove the row" for line in (2, 3)]
    path.write_text('{"text": "三星"}\n', encoding="utf-8")
    with pytest.raises(NerError) as error:
        read_negatives(path, ["三星"])
    assert (error.value.place, error.value.value) == ("negatives_from", str(path))
    with pytest.raises(NerError) as error:
        read_negatives(tmp_path / "none.txt", [])
    assert error.value.place == tmp_path / "none.txt"


@pytest.mark.skipif(not os.environ.get("QWEN_NER_DATA"), reason="QWEN_NER_DATA does not name CLUENER's folder")
def test_cluener_has_enough_of_them():
    train, dev = read_dataset("cluener", "train"), read_dataset("cluener", "dev")
    surfaces = {entity.text for row in train for entity in row.entities}
    found = entity_free(train, surfaces)
    assert len(found) >= 5000
    assert not any(surface in cut.text for cut in found[::50] for surface in surfaces)
    assert len(entity_free(dev, surfaces | {entity.text for row in dev for entity in row.entities})) >= 600
