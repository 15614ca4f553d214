"""The statistics of a data set as a table for a terminal.

In: `Statistics`. Out: text. Does not count anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...columns import align, printable
from .stats import Lengths, SplitStatistics, Statistics

SURFACES = 10
"""How many surfaces with several labels are shown, the most frequent first; the JSON has all."""


def table(statistics: Statistics, title: str, tokenizer: str) -> str:
    """The statistics as text: rows and entities, labels, lengths, cost of limits, duplicates, several labels.

    `tokenizer` is the name of the tokenizer that counted. A split without any entity counts as not annotated.

    >>> from qwen_ner.data.analysis.stats import statistics
    >>> from qwen_ner.entities import Entity, Example
    >>> rows = [Example("0", "三星在北京", (Entity("company", "三星", 0, 2),)), Example("1", "明天见")]
    >>> print(table(statistics({"train": rows}, {"train": [(60, 9), (58, 3)]}), "two rows", "tiny").split("\\n\\n")[0])
    two rows
                                             train
    rows                                         2
    rows without entities               1 (50.0 %)
    entities                                     1
    (label, surface) pairs, row by row           1
      annotated at some places only              0
    different (label, surface) pairs             1
    surfaces with several labels                 0
    """
    blocks = [[title, *_overview(statistics)], list(_labels(statistics)), list(_lengths(statistics, tokenizer))]
    blocks += [list(_limits(statistics)), list(_duplicates(statistics)), list(_several(statistics))]
    return printable("\n\n".join("\n".join(block) for block in blocks if block))


def share(part: int, whole: int) -> str:
    """A count with its share in per cent.

    >>> share(1, 8), share(0, 0)
    ('1 (12.5 %)', '0')
    """
    return f"{part:,} ({100 * part / whole:.1f} %)" if whole else f"{part:,}"


def _overview(statistics: Statistics) -> list[str]:
    names, splits = list(statistics.splits), statistics.splits.values()
    in_train = ["" if s.written_in_train is None else share(s.written_in_train, s.written) for s in splits]
    cells = {
        "rows without entities": [share(split.empty_rows, split.rows) for split in splits],
        "entities": [f"{split.entities:,}" for split in splits],
        "(label, surface) pairs, row by row": [f"{split.written:,}" for split in splits],
        "  in train too": in_train,
        "  annotated at some places only": [f"{split.partly:,}" for split in splits],
        "different (label, surface) pairs": [f"{split.pairs:,}" for split in splits],
        "surfaces with several labels": [f"{len(statistics.several_labels[name]):,}" for name in names],
    }
    rows = [["", *names], ["rows", *(f"{split.rows:,}" for split in splits)]]
    for name, of in cells.items():
        if any(of):
            annotated = zip(of, splits, strict=True)
            rows.append([name, *(cell if split.is_annotated else "not annotated" for cell, split in annotated)])
    return align(rows)


def _labels(statistics: Statistics) -> Iterator[str]:
    splits = {name: split for name, split in statistics.splits.items() if split.is_annotated}
    if not splits:
        return

    def cells(split: SplitStatistics, label: str) -> list[str]:
        counts = split.labels.get(label)
        return [share(counts.entities, split.entities), f"{counts.surfaces:,}"] if counts else ["0", "0"]

    rows = [["entities a label", *(cell for name in splits for cell in (name, "surfaces"))]]
    rows += [[label, *(c for split in splits.values() for c in cells(split, label))] for label in statistics.labels]
    yield from align(rows)


def _lengths(statistics: Statistics, tokenizer: str) -> Iterator[str]:
    rows = [[f"tokens of {tokenizer}", "mean", "50 %", "90 %", "99 %", "longest"]]
    for name, split in statistics.splits.items():
        for what, lengths in split.lengths.items():
            if what in ("answer", "row") and not split.is_annotated:
                continue
            most = [*(lengths.quantile(share) for share in (0.5, 0.9, 0.99)), lengths.longest]
            unit = " (characters)" if what == "text" else ""
            rows.append([f"{name} {what}{unit}", f"{lengths.mean:.1f}", *(f"{length:,}" for length in most)])
    yield from align(rows)


def _limits(statistics: Statistics) -> Iterator[str]:
    """Entities in the rows that are over a limit of row, prompt or answer: a training splits these, or cuts answers."""
    for what in ("row", "prompt", "answer"):
        splits = {name: split for name, split in statistics.splits.items() if split.is_annotated}
        if not splits:
            return
        limits = sorted({limit for split in splits.values() for limit in round_limits(split.lengths[what])})
        whose = "" if what == "row" else f"whose {what} is "
        rows = [[f"entities in rows {whose}longer than", *(f"{limit:,}" for limit in limits)]]
        for name, split in splits.items():
            lost = [split.lengths[what].lost(limit)[1] for limit in limits]
            rows.append([name, *(share(entities, split.entities) if entities else "0" for entities in lost)])
        yield from align(rows)


def round_limits(lengths: Lengths) -> list[int]:
    """Powers of two and their midpoints, from the first that fits a tenth of the rows to the first that fits all.

    >>> round_limits(Lengths.of([(50, 1), (120, 1)]))
    [64, 96, 128]
    """
    steps = [step for power in range(2, 40) for step in (2**power, 3 * 2 ** (power - 1))]
    fitting = [step for step in steps if step >= lengths.quantile(0.1)]
    return [step for at, step in enumerate(fitting) if not at or fitting[at - 1] < lengths.longest]


def _duplicates(statistics: Statistics) -> Iterator[str]:
    rows = [["rows alike", "identical", "but for punctuation, width, case", "similar"]]
    for (one, other), counts in statistics.duplicate_counts().items():
        between = f"within {one}" if one == other else f"{other} with {one}"
        rows.append([between, *(f"{counts[likeness]:,}" for likeness in ("identical", "equal", "similar"))])
    yield from align(rows)


def _several(statistics: Statistics) -> Iterator[str]:
    for name, surfaces in statistics.several_labels.items():
        if surfaces:
            yield f"surfaces with several labels in {name}, the most frequent of {len(surfaces):,}"
            for surface, labels in list(surfaces.items())[:SURFACES]:
                counted = ", ".join(f"{label} {count:,}" for label, count in labels.items())
                yield printable(f"  {surface}  {counted}", one_line=True)
