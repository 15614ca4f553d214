"""A trained model, or a file of what one predicted, scored on a split of a data set.

In: a model folder, a Hub id or a predictions file, and the name of a data set. Out: an `Evaluated` for each way of
decoding. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from ..data.formats import has_split, labels_of, read_dataset
from ..data.negatives import entity_free
from ..data.predictions import read_predictions
from ..entities import CLUENER, NerError, fingerprint
from ..evaluation.evaluated import Evaluated
from ..evaluation.table import Contract
from .calibration import summary
from .extractor import Extractor
from .generation import BATCH_TOKENS


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
) -> Iterator[Evaluated]:
    """One `Evaluated` for each of `decodings`; a predictions file gives one, of decoding "given".

    `revision` is of a model on the Hub. `limit` takes the first rows only. `negatives` has clauses without entities
    read too, cut out of the rows, to see how often something is found where nothing is; they do not count in the
    scores. The others are those of `Extractor.predict`. Raises `NerError` where the split has no entity to score, and
    what reading and loading raise.
    """
    read = partial(read_dataset, data, data_dir=data_dir)
    given = Path(model).is_file()
    extractor = None if given else Extractor.from_pretrained(model, revision=revision)
    gold = read(split, labels=extractor.config.labels if extractor else None)[:limit]
    if not any(example.entities for example in gold):
        raise NerError(f"{data} {split} holds no entity to score; `qwen-ner predict` reads unlabelled texts")
    labels = extractor.config.labels if extractor else CLUENER if data in ("cluener", "sample") else labels_of(gold)
    train = read("train", labels=labels) if split != "train" and has_split(data, "train", data_dir) else None
    surfaces = (entity.text for example in (*gold, *(train or ())) for entity in example.entities)
    annotated = [example for example in gold if example.entities]
    clauses = entity_free(annotated, surfaces) if negatives and extractor else []
    named = f"{model}@{revision}" if revision else model
    for decoding in decodings if extractor else ("given",):
        contract = Contract(named, data, split, len(gold), fingerprint(gold), decoding, min_score, thresholds)
        evaluated = partial(Evaluated, contract, gold, labels=labels, train=train)
        if extractor is None:
            yield evaluated(predicted=read_predictions(model, gold)[1])
            continue
        found = extractor.predict(
            [row.text for row in (*gold, *clauses)],
            constrained=decoding == "constrained",
            min_score=min_score,
            thresholds=thresholds,
            batch_tokens=batch_tokens,
            progress=True,
        )
        predicted, of_clauses = found[: len(gold)], found[len(gold) :]
        yield evaluated(
            predicted=predicted,
            confidence=summary(extractor.judged(gold, predicted)),
            added=list(zip(clauses, of_clauses, strict=True)),
        )
