"""Laws of the shipped sample: what it holds, that it is labelled fully, and that its generator still writes it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from rows import ROOT

from qwen_ner.data.analysis.duplicates import leaks
from qwen_ner.entities import CLUENER, Entity, Example
from qwen_ner.grounding import ground

sys.path.insert(0, str(ROOT / "tools" / "sample"))
import generate
from words import FILLERS, PARTS, SLOTS

sys.path.pop(0)
SHIPPED = files("qwen_ner.data.sample")
SIZES = {"train": 2000, "dev": 300, "test": 300}


def read(split: str) -> list[Example]:
    rows = [json.loads(line) for line in (SHIPPED / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        Example(
            id=f"{split}-{number}",
            text=row["text"],
            entities=tuple(
                Entity(e["label"], row["text"][e["start"] : e["end"]], e["start"], e["end"]) for e in row["entities"]
            ),
        )
        for number, row in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Example]]:
    return {split: read(split) for split in SIZES}


def pairs(examples: list[Example]) -> set[tuple[str, str]]:
    return {pair for example in examples for pair in example.surfaces}


def test_generating_again_gives_the_shipped_bytes(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "sample" / "generate.py"), str(tmp_path)]
    subprocess.run(command, check=True)
    for split in SIZES:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (SHIPPED / f"{split}.jsonl").read_bytes()


def test_another_seed_gives_other_rows(splits: dict[str, list[Example]]) -> None:
    other = generate.rows(seed=1)
    assert {split: len(examples) for split, examples in other.items()} == SIZES
    assert other["dev"] != splits["dev"]


def test_no_row_of_dev_or_test_is_another_one_but_for_its_typing(splits: dict[str, list[Example]]) -> None:
    assert leaks(splits["train"], [*splits["dev"], *splits["test"]]) == []
    assert leaks(splits["dev"], splits["test"]) == []


def test_rows_are_counted_and_small(splits: dict[str, list[Example]]) -> None:
    assert {split: len(examples) for split, examples in splits.items()} == SIZES
    assert sum(len((SHIPPED / f"{split}.jsonl").read_bytes()) for split in SIZES) < 2**19
    assert all(len(example.text) <= 60 for examples in splits.values() for example in examples)


@pytest.mark.parametrize("split", SIZES)
def test_one_row_in_ten_is_empty(splits: dict[str, list[Example]], split: str) -> None:
    empty = sum(not example.entities for example in splits[split])
    assert 0.07 <= empty / len(splits[split]) <= 0.13


@pytest.mark.parametrize("split", SIZES)
def test_every_label_is_frequent(splits: dict[str, list[Example]], split: str) -> None:
    mentions = [entity.label for example in splits[split] for entity in example.entities]
    assert set(mentions) == set(CLUENER.names)
    assert all(mentions.count(name) / len(mentions) >= 0.05 for name in CLUENER.names)


@pytest.mark.parametrize("split", SIZES)
def test_every_occurrence_is_labelled_and_none_is_nested(splits: dict[str, list[Example]], split: str) -> None:
    for example in splits[split]:
        assert ground(example.text, example.surfaces) == example.entities
        surfaces = [surface for _, surface in example.surfaces]
        assert not any(one in other for one in surfaces for other in surfaces if one is not other)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_third_of_the_surfaces_is_new_and_made_of_known_characters(
    splits: dict[str, list[Example]], split: str
) -> None:
    unseen = pairs(splits[split]) - pairs(splits["train"])
    assert 0.30 <= len(unseen) / len(pairs(splits[split])) <= 0.37
    known = set("".join(example.text for example in splits["train"]))
    assert known.issuperset("".join(example.text for example in splits[split]))


def test_what_is_new_in_dev_is_not_in_test(splits: dict[str, list[Example]]) -> None:
    new = [pairs(splits[split]) - pairs(splits["train"]) for split in ("dev", "test")]
    assert not new[0] & new[1]


def test_no_text_twice(splits: dict[str, list[Example]]) -> None:
    texts = [example.text for examples in splits.values() for example in examples]
    assert len(texts) == len(set(texts)) == 2600


@pytest.mark.parametrize("split", SIZES)
@pytest.mark.parametrize("piece", ["“", '"', "\\", ",", "，", "(", "（", "《", "2024"])
def test_awkward_characters_are_there(splits: dict[str, list[Example]], split: str, piece: str) -> None:
    assert any(piece in example.text for example in splits[split])


@pytest.mark.parametrize("split", SIZES)
def test_some_rows_hold_emoji(splits: dict[str, list[Example]], split: str) -> None:
    assert sum(any(character >= "\U0001f000" for character in example.text) for example in splits[split]) >= 5


@pytest.mark.parametrize("split", SIZES)
def test_some_rows_repeat_a_mention(splits: dict[str, list[Example]], split: str) -> None:
    assert sum(len(example.surfaces) < len(example.entities) for example in splits[split]) >= 5


def test_every_list_is_used_and_every_key_is_known() -> None:
    templates = [t for genre in generate.GENRES.values() for t in genre]
    clauses = [c for clauses in (*generate.OPENERS.values(), *generate.TAILS.values()) for c in clauses]
    keys = {slot for sentence in (*templates, *clauses) for slot, _ in generate._KEY.findall(sentence)}
    parts = {part for _, shapes in SLOTS.values() for shape in shapes for part, _ in generate._KEY.findall(shape)}
    assert keys == SLOTS.keys() | FILLERS.keys()
    assert parts == PARTS.keys()
    assert len(templates) == len(set(templates)) >= 80
    assert {label for label, _ in SLOTS.values()} == set(CLUENER.names)
