"""`qwen-ner compare`: two sets of prediction files, compared.

In: files, folders or patterns. Out: lines for a terminal. Knows nothing of models.
"""

from __future__ import annotations

import glob
from pathlib import Path

from ..codec import Decoded
from ..data.datasets import NAMED, read_dataset
from ..data.formats.predictions import labels_of_predictions, read_predictions
from ..entities import CLUENER, LabelSet, NerError
from ..evaluation.compare import compare as compare_runs
from ..evaluation.compare import comparison_lines


def compare(a: str, b: str, *, data: str | None = None, split: str | None = None, data_dir: Path | None = None) -> str:
    """The `comparison_lines` of the predictions that `a` and `b` name: a file, a folder, or a pattern of several files.

    `split` of `data` is dev unless it is given. Raises `NerError` if there are none, or if they are not all for the
    same rows.
    """
    if not data and (given := split or data_dir):
        raise NerError("has no effect without data", value=str(given), place="split, data_dir", remedy="give data too")
    gold = read_dataset(data, split or "dev", data_dir=data_dir) if data else None
    paths = [[side] if Path(side).exists() else sorted(glob.glob(side)) for side in (a, b)]
    runs: list[list[list[Decoded]]] = []
    labels = set[str]()
    for side, files in zip((a, b), paths, strict=True):
        if not files:
            remedy = "give a predictions.jsonl, a folder that holds one, or a pattern"
            raise NerError("no such file or folder", place=side, remedy=remedy)
        runs.append([])
        for path in files:
            own, predicted = read_predictions(path, gold if data else None)
            labels |= labels_of_predictions(path, own, predicted)
            gold = gold or own
            if [(e.id, e.text, e.entities) for e in own] != [(e.id, e.text, e.entities) for e in gold]:
                raise NerError(f"other rows or gold than {paths[0][0]}", place=path, remedy="predict the same split")
            runs[-1].append(predicted)
    assert gold is not None
    label_set = CLUENER if data in NAMED else LabelSet.of(sorted(labels))
    found = compare_runs(gold, runs[0], runs[1], label_set)
    return "\n".join(comparison_lines(found, gold, runs[0][0], runs[1][0], (a, b)))
