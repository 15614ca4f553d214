"""Laws of holding out: exact size, same seed same rows, order kept, labels and empty rows in both parts."""

from __future__ import annotations

import itertools
import random

import pytest

from qwen_ner.data.split import hold_out
from qwen_ner.entities import Entity, Example, NerError


def rows_with(*labels: str) -> list[Example]:
    """One example a string, with an entity for each letter in it."""
    return [Example(str(n), "一", tuple(Entity(c, "一", 0, 1) for c in names)) for n, names in enumerate(labels)]


def random_rows(seed: int, size: int, empty: float = 0.2) -> list[Example]:
    generator = random.Random(seed)
    sizes = [0 if generator.random() < empty else generator.choice([1, 1, 2, 3]) for _ in range(size)]
    return rows_with(*("".join(generator.sample("ABCDE", count)) for count in sizes))


def missing(examples: list[Example], held: list[Example]) -> int:
    """How many labels of two rows or more stand in one part only."""
    inside = {example.id for example in held}
    parts: dict[str, list[bool]] = {}
    for example in examples:
        for entity in example.entities:
            parts.setdefault(entity.label, []).append(example.id in inside)
    return sum(len(of) > 1 and len(set(of)) == 1 for of in parts.values())


@pytest.mark.parametrize("seed", range(30))
def test_the_two_parts_are_the_whole_in_its_order(seed):
    examples = random_rows(seed, 50)
    rows = random.Random(seed).randint(1, 49)
    train, held = hold_out(examples, rows, seed)
    assert len(held) == rows
    assert sorted(train + held, key=lambda e: int(e.id)) == examples
    for part in (train, held):
        assert [int(e.id) for e in part] == sorted(int(e.id) for e in part)


def test_the_seed_decides_and_nothing_else():
    examples = random_rows(0, 200)
    assert hold_out(examples, 40, seed=3) == hold_out(tuple(examples), 40, seed=3)
    assert len({tuple(e.id for e in hold_out(examples, 40, seed)[1]) for seed in range(20)}) == 20


def test_a_rare_label_is_in_both_parts():
    common = ["A"] * 300
    for seed in range(20):
        examples = rows_with(*common, "B", "B", "C")
        _, held = hold_out(examples, 10, seed)
        assert missing(examples, held) == 0
        assert len(held) == 10


@pytest.mark.parametrize("seed", range(150))
def test_no_other_split_of_that_size_misses_fewer_labels(seed):
    generator = random.Random(seed)
    examples = random_rows(seed, generator.randint(2, 9), empty=0.25)
    rows = generator.randint(1, len(examples) - 1)
    fewest = min(missing(examples, list(held)) for held in itertools.combinations(examples, rows))
    assert missing(examples, hold_out(examples, rows, seed)[1]) == fewest


def test_labels_that_cannot_be_in_both_parts_stop_nothing():
    # Three labels, each on two of three rows: any split leaves one label in one part.
    examples = rows_with("AB", "BC", "AC")
    assert missing(examples, hold_out(examples, 1, 0)[1]) == 1
    assert len(hold_out(rows_with("ABCDE", "", "A"), 1, 0)[1]) == 1


@pytest.mark.parametrize("seed", range(10))
def test_rows_without_entities_keep_their_share(seed):
    examples = rows_with(*[""] * 30, *["A", "B", "AC"] * 30)
    train, held = hold_out(examples, 40, seed)
    assert sum(not e.entities for e in held) == 10
    assert sum(not e.entities for e in train) == 20


@pytest.mark.parametrize("seed", range(10))
def test_a_rare_label_takes_no_place_from_rows_without_entities(seed):
    examples = rows_with(*[""] * 100, *["A"] * 100, "B", "B")
    _, held = hold_out(examples, 20, seed)
    assert missing(examples, held) == 0
    assert sum(not e.entities for e in held) == 10


def test_rows_without_entities_alone_or_absent_are_no_trouble():
    assert len(hold_out(rows_with(*[""] * 5), 4, 0)[1]) == 4
    assert len(hold_out(rows_with(*["A"] * 5), 4, 0)[1]) == 4
    assert len(hold_out(rows_with("A", *[""] * 9), 9, 0)[1]) == 9


@pytest.mark.parametrize("rows", [-1, 0, 5, 6])
def test_a_size_that_leaves_a_part_empty_is_refused(rows):
    with pytest.raises(NerError) as error:
        hold_out(rows_with(*"AAAAA"), rows, 0)
    assert (error.value.value, error.value.remedy) == (rows, "choose a number from 1 to 4")


def test_one_row_cannot_be_split():
    with pytest.raises(NerError) as error:
        hold_out([Example("0", "一")], 1, seed=0)
    assert error.value.remedy == "add rows, at least two"
