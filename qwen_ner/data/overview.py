"""What a data set has, to be looked at before anything is made of it.

In: a data set without a recipe. Out: its splits, labels and most frequent surfaces, as lines of text.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..columns import align, join_names
from ..entities import Example, NerError
from .analysis.stats import Lengths
from .datasets import NAMED, is_local, labels_of, open_dataset, read_all
from .formats import registry
from .formats.errors import DataError, count

MOST_HELD_OUT = 500
"""Rows of train that choose the checkpoint, at most; a tenth of train where that is less."""

RARE = 5
"""Entities in train below which a label may be none, such as a column of remarks."""


@dataclass(frozen=True)
class Found:
    """A data set by split, train first, and for each split where it was read from.

    `repair` says that some annotations had to be repaired, which the log lists.
    """

    dataset: str
    splits: dict[str, list[Example]]
    sources: dict[str, str]
    repair: bool = False

    @property
    def train(self) -> list[Example]:
        return self.splits["train"]

    def labels(self) -> list[str]:
        """All labels, the most frequent in train first."""
        counts = Counter(entity.label for example in self.train for entity in example.entities)
        every = labels_of(example for examples in self.splits.values() for example in examples)
        return sorted(every.names, key=lambda name: -counts[name])

    @property
    def held_out(self) -> int:
        """The rows of train that choose the checkpoint: 0 if an annotated dev split does, but in CLUENER's protocol."""
        dev_chooses = self.has("dev") and self.dataset not in NAMED
        return 0 if dev_chooses else min(MOST_HELD_OUT, max(1, len(self.train) // 10))

    def has(self, split: str) -> bool:
        """Whether there is such a split, with entities."""
        return any(example.entities for example in self.splits.get(split, ()))

    def roles(self) -> str:
        """Which rows choose the checkpoint and which are the final score, as `preparation.read_splits` has it."""
        chooses = "rows held out of train" if self.held_out else "dev"
        final = "dev" if self.dataset in NAMED else "test"
        score = final if self.has(final) else f"the same rows, as there is no annotated {final} split"
        return f"the checkpoint is chosen by {chooses}; the final score is of {score}"


def look(dataset: str, keep: Sequence[str] | None = None) -> Found:
    """Read all splits of a data set. A single file, or the only one of a folder without splits, is its train split.

    Rows keep the entities of the labels `keep`, or all. What is out of order is repaired if nothing else is wrong.
    Raises `NerError` for data that cannot be read or trained on.
    """
    if is_local(dataset):
        dataset = str(registry.only_file(Path(dataset)) or dataset)
    try:
        repair, splits = False, read_all(dataset, keep=keep)
    except DataError:  # what is not mended is raised again
        repair, splits = True, read_all(dataset, keep=keep, repair=True)
    if len(splits) == 1 and Path(dataset).expanduser().is_file():
        splits = {"train": next(iter(splits.values()))}
    if "train" not in splits:
        remedy = "rename the file of the training rows to train and its suffix, such as train.jsonl or train.xlsx"
        raise NerError("has no train split", value=[*splits], place=dataset, remedy=remedy)
    if len(splits["train"]) < 2:
        remedy = "add rows, at least two: one to train on and one to choose the checkpoint by"
        raise NerError("too few rows to train on", value=len(splits["train"]), place=dataset, remedy=remedy)
    if not any(example.entities for example in splits["train"]):
        remedy = "annotate some rows, or give the file that holds the entities"
        raise NerError("no row of train has an entity", place=dataset, remedy=remedy)
    opened = {split: open_dataset(dataset, split) for split in splits}
    sources = {split: f"{Path(source.path).name}, {source}" for split, source in opened.items()}
    return Found(dataset, splits, sources, repair)


def overview(found: Found) -> list[str]:
    """Lines to look at before training: the splits, then each label with its entities by split and three surfaces."""
    lines = [found.dataset]
    for split, examples in found.splits.items():
        entities = sum(len(example.entities) for example in examples)
        lengths = Lengths.of((len(example.text), 0) for example in examples)
        size = f"{count(len(examples), 'row')}, {entities:,} entities, {lengths.mean:.0f} characters per row"
        lines.append(f"{split}: {size}, {lengths.longest:,} at most ({found.sources[split]})")
    lines.append(found.roles())
    return [one_line(line) for line in (*lines, "", *_label_lines(found))]


def _label_lines(found: Found) -> list[str]:
    counts: dict[str, Counter[str]] = {split: Counter() for split in found.splits}
    surfaces: dict[str, Counter[str]] = defaultdict(Counter)
    for split, examples in found.splits.items():
        for entity in itertools.chain.from_iterable(example.entities for example in examples):
            counts[split][entity.label] += 1
            surfaces[entity.label][entity.text] += 1
    labels = found.labels()
    numbers = [[one_line(label), *(f"{of[label]:,}" for of in counts.values())] for label in labels]
    head, *rows = align([["label", *counts], *numbers])
    lines = [f"{head}  most frequent surfaces"]
    for label, row in zip(labels, rows, strict=True):
        common = surfaces[label].most_common(3)
        lines.append(f"{row}  {' · '.join(f'{_short(text)} ({number:,})' for text, number in common)}")
    if rare := [f"{label} ({counts['train'][label]})" for label in labels if 0 < counts["train"][label] < RARE]:
        lines.append(f"rare in train: {join_names(rare)}; if one is no label, delete it from `labels` in the recipe")
    if unseen := [label for label in labels if not counts["train"][label]]:
        lines.append(f"no row of train has {join_names(unseen)}, which cannot be learnt")
    return lines


def _short(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:19]}…"


def one_line(text: str) -> str:
    """As a YAML comment can hold it: line breaks become spaces, what cannot be printed is escaped."""
    return "".join(
        char if char.isprintable() else " " if char.isspace() else char.encode("unicode_escape").decode()
        for char in text
    )
