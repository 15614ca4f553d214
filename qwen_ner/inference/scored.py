"""A trained model, or a file of what one predicted, scored on a split of a data set.

In: a model folder, a Hub id or a predictions file, and the name of a data set. Out: an `Evaluated` for each way of
decoding. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..codec import Decoded
from ..data.formats import has_split, labels_of, read_dataset
from ..data.predictions import read_predictions
from ..entities import CLUENER, Example, NerError, fingerprint
from ..evaluation.evaluated import Evaluated
from ..evaluation.table import Contract
from .calibration import summary


def evaluate(
    model: str,
    data: str,
    split: str = "dev",
    *,
    data_dir: Path | None = None,
    limit: int | None = None,
    decodings: Sequence[str] = ("free", "constrained"),
    min_score: float = 0.0,
    thresholds: str = "none",
    batch_tokens: int | None = None,
) -> Iterator[Evaluated]:
    """One `Evaluated` for each of `decodings`; a predictions file gives one, of decoding "given".

    `limit` takes the first rows only; the others are of `Extractor.predict`. Raises `NerError` where the split has no
    entity to score, and what reading and loading raise.
    """
    read = partial(read_dataset, data, data_dir=data_dir)
    if Path(model).is_file():
        gold = read(split)[:limit]
        labels = CLUENER if data in ("cluener", "sample") else labels_of(gold)
        _require_entities(gold, data, split)
        _, predicted = read_predictions(model, gold)
        runs: Iterator[tuple[str, list[Decoded], dict[str, Any]]] = iter([("given", predicted, {})])
    else:
        from .extractor import Extractor

        extractor = Extractor.from_pretrained(model)
        labels = extractor.config.labels
        gold = read(split, labels=labels)[:limit]
        _require_entities(gold, data, split)
        options: dict[str, Any] = {"min_score": min_score, "thresholds": thresholds, "progress": True}
        options |= {} if batch_tokens is None else {"batch_tokens": batch_tokens}
        runs = (_run(extractor, gold, decoding, options) for decoding in decodings)
    train = read("train", labels=labels) if split != "train" and has_split(data, "train", data_dir) else None
    for decoding, predicted, confidence in runs:
        contract = Contract(model, data, split, len(gold), fingerprint(gold), decoding, min_score, thresholds)
        yield Evaluated(contract, gold, predicted, labels, train, confidence)


def _run(
    extractor: Any, gold: Sequence[Example], decoding: str, options: dict[str, Any]
) -> tuple[str, list[Decoded], dict[str, Any]]:
    predicted = extractor.predict([row.text for row in gold], constrained=decoding == "constrained", **options)
    return decoding, predicted, summary(extractor.judged(gold, predicted))


def _require_entities(gold: Sequence[Example], data: str, split: str) -> None:
    if not any(example.entities for example in gold):
        raise NerError(f"{data} {split} holds no entity to score; `qwen-ner predict` reads unlabelled texts")
