"""`qwen-ner compare`: files of predictions, found and set against each other.

In: files, folders or patterns. Out: lines for a terminal. Knows nothing of models.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from ..codec import Decoded
from ..data.datasets import labels_of, read_dataset
from ..data.formats.predictions import read_predictions
from ..entities import CLUENER, Example, LabelSet, NerError
from ..evaluation.compare import compare as compare_runs
from ..evaluation.compare import comparison_lines


def compare(a: str, b: str, *, data: str | None = None, split: str = "dev", data_dir: Path | None = None) -> str:
    """What `comparison_lines` says of the predictions that `a` and `b` name: a file, a folder, or a pattern of several.

    Raises `NerError` where there are none, or where they are for other rows than the first of A.
    """
    gold = None if data is None else read_dataset(data, split, data_dir=data_dir)
    runs: list[list[list[Decoded]]] = []
    for side in (a, b):
        runs.append([])
        for path in _paths(side):
            found, predicted = read_predictions(path, gold if data is not None else None)
            if gold is not None and not _same(found, gold):
                raise NerError(
                    f"{path} predicts other rows, or has other gold, than {_paths(a)[0]}; predict the same split"
                )
            gold = found
            runs[-1].append(predicted)
    assert gold is not None
    labels = _labels(gold)
    found_out = compare_runs(gold, runs[0], runs[1], labels)
    return "\n".join(comparison_lines(found_out, gold, runs[0][0], runs[1][0], (a, b)))


def _paths(side: str) -> list[str]:
    if Path(side).exists():
        return [side]
    paths = sorted(glob.glob(side))
    if not paths:
        raise NerError(
            f"{side}: no such file or folder; give a predictions.jsonl, a folder that holds one, or a pattern"
        )
    return paths


def _same(one: Sequence[Example], other: Sequence[Example]) -> bool:
    return [(e.id, e.text, e.entities) for e in one] == [(e.id, e.text, e.entities) for e in other]


def _labels(gold: Sequence[Example]) -> LabelSet:
    """CLUENER's, where gold has no other; else those of gold."""
    found = labels_of(gold)
    return CLUENER if set(found.names) <= set(CLUENER.names) else found
