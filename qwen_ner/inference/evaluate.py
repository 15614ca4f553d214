"""A trained model, or a file of what one predicted, scored on a split of a data set.

In: a model folder, a Hub id or a predictions file, and the name of a data set. Out: an `EvaluationResult` for each
way of decoding. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from ..data.arrow_store import StoredDecoded, StoredExamples
from ..data.datasets import has_split, iter_dataset, labels_of
from ..data.formats.predictions import iter_predictions
from ..data.negatives import entity_free
from ..entities import CLUENER, Example, LabelSet, NerError, fingerprint
from ..evaluation.result import EvaluationResult
from ..evaluation.table import Contract
from .backends.torch import BATCH_TOKENS
from .calibration import summary
from .extractor import Extractor


def evaluate(
    model: str,
    data: str,
    split: str = "dev",
    *,
    revision: str | None = None,
    data_dir: Path | None = None,
    limit: int | None = None,
    decodings: Sequence[str] = ("free", "constrained"),
    min_score: float = 0.0,
    thresholds: Literal["none", "auto"] = "none",
    batch_tokens: int = BATCH_TOKENS,
    negatives: bool = False,
) -> Iterator[EvaluationResult]:
    """One `EvaluationResult` for each of `decodings`; a predictions file gives one, of decoding "given".

    `revision` is of a model on the Hub. `limit` takes the first rows only. `negatives` has clauses without entities
    read too, cut out of the rows, to see how often something is found where nothing is; they do not count in the
    scores. The others are those of `Extractor.predictions`. Raises `NerError` where the split has no entity to score,
    and what reading and loading raise.
    """
    read = partial(_stored, data, data_dir=data_dir)
    given = Path(model).is_file()
    extractor = None if given else Extractor.from_pretrained(model, revision=revision)
    gold = read(split, labels=extractor.config.labels if extractor else None)[:limit]
    if not any(example.entities for example in gold):
        raise NerError(f"{data} {split} holds no entity to score; `qwen-ner predict` reads unlabelled texts")
    labels = extractor.config.labels if extractor else CLUENER if data in ("cluener", "sample") else labels_of(gold)
    train = read("train", labels=labels) if split != "train" and has_split(data, "train", data_dir) else None
    clauses = _clauses(gold, train) if negatives and extractor else []
    named = f"{model}@{revision}" if revision else model
    for decoding in decodings if extractor else ("given",):
        contract = Contract(named, data, split, len(gold), fingerprint(gold), decoding, min_score, thresholds)
        evaluated = partial(EvaluationResult, contract, gold, labels=labels, train=train)
        if extractor is None:
            yield evaluated(predicted=StoredDecoded.of(iter_predictions(model, gold)))
            continue
        found = partial(
            extractor.predictions,
            constrained=decoding == "constrained",
            min_score=min_score,
            thresholds=thresholds,
            batch_tokens=batch_tokens,
            progress=True,
        )
        predicted = StoredDecoded.of(found(gold.rows["text"]))
        yield evaluated(
            predicted=predicted,
            confidence=summary(extractor.judged(gold, predicted)),
            added=list(zip(clauses, found([clause.text for clause in clauses]), strict=True)),
        )


def _stored(data: str, split: str, *, labels: LabelSet | None, data_dir: Path | None) -> StoredExamples:
    return StoredExamples.of(iter_dataset(data, split, labels=labels, data_dir=data_dir))


def _clauses(gold: Sequence[Example], train: Sequence[Example] | None) -> list[Example]:
    """Clauses of annotated rows in which there is no entity, whatever is annotated in `gold` or `train`."""
    surfaces = (entity.text for example in chain(gold, train or ()) for entity in example.entities)
    return entity_free((example for example in gold if example.entities), surfaces)
