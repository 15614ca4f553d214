"""A trained model, or a file of predictions, scored on a split of a data set.

In: a model folder, a Hub id or a predictions file, and the name of a data set. Out: an `EvaluationResult` for each
way of decoding. Knows nothing of training.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..columns import join_names
from ..data.arrow_store import StoredDecoded, StoredExamples
from ..data.datasets import NAMED, has_split, iter_dataset
from ..data.formats.errors import count
from ..data.formats.predictions import iter_predictions, labels_of_predictions
from ..data.negatives import entity_free, surfaces_of
from ..data.notes import Watch
from ..data.trained_texts import TRAINED_TEXTS, load_trained_texts, trained_on
from ..entities import CLUENER, Example, LabelSet, NerError, fingerprint
from ..evaluation.result import EvaluationResult
from ..evaluation.table import Contract
from .calibration import judged, summary
from .extractor import Extractor
from .output_file import META, NAME
from .sampling import Sampling

log = logging.getLogger(__name__)

HELD_OUT = "held-out"
"""What the split of a file is called of which the rows that the model was trained on are left out."""

WARNED_SHARE = 0.01
"""The share of rows that were trained on from which on it is a warning: of CLUENER's dev set it is one in 1,343."""

OF_A_MODEL = (
    *("revision", "backend", "dtype", "batch_tokens", "negatives", "temperature", "min_score", "thresholds"),
    "decodings",
)
"""Options of `evaluate` that change nothing for a file of predictions."""


def evaluate(
    model: str,
    data: str,
    split: str = "dev",
    *,
    revision: str | None = None,
    backend: str = "torch",
    dtype: str = "auto",
    data_dir: Path | None = None,
    limit: int | None = None,
    decodings: Sequence[str] = ("free", "constrained"),
    min_score: float | None = None,
    thresholds: Literal["none", "auto"] = "none",
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch_tokens: int | None = None,
    negatives: bool = False,
) -> Iterator[EvaluationResult]:
    """One `EvaluationResult` for each of `decodings`; a predictions file gives one, with decoding "given".

    `revision`, `backend` and `dtype` are those of `Extractor.from_pretrained`; `min_score`, `thresholds`, `samples`,
    `temperature`, `top_p` and `batch_tokens` those of `Extractor.predictions`. `limit` takes the first rows only. With
    `negatives`, clauses without entities are cut out of the rows and read too, to see how often something is found
    where nothing is; they do not count in the scores. If `data` is the one file that the model was trained on, the rows
    that were held out are scored, unless `split` is train; rows of other data that were trained on are warned of, and
    where `model` is a file, those that the model which wrote it was trained on.
    Entities of labels that the model does not have are left out, counted and logged. Raises `NerError` if the split has
    no entity to score, and what reading, loading and predicting raise.
    """
    given = dict(locals())
    sampling = Sampling(samples, temperature, top_p)
    sampling.check(thresholds)
    for place in OF_A_MODEL if Path(model).is_file() else ():
        if given[place] != signature(evaluate).parameters[place].default:
            what, remedy = "a file of predictions is scored as it stands", f"leave {place} out, or give the model"
            raise NerError(what, value=given[place], place=place, remedy=remedy)
    watch = Watch()
    read = partial(iter_dataset, data, data_dir=data_dir, watch=watch)
    load = partial(Extractor.from_pretrained, model, revision=revision, backend=backend, dtype=dtype)
    extractor = None if Path(model).is_file() else load()
    watch.keep = frozenset(extractor.config.labels.names) if extractor else None
    gold, train = StoredExamples.of(read(split)), None
    if split != "train":
        gold, train = _not_trained_on(gold, model, data, split)
        split = split if train is None else HELD_OUT
    gold = gold[:limit]
    _check_entities(gold, f"{data} {split}", watch, extractor)
    answers, labels = ([], extractor.config.labels) if extractor else _answers(model, gold, data)
    watch.keep = frozenset(labels.names)
    if split != "train" and has_split(data, "train", data_dir):
        train = StoredExamples.of(read("train"))
    watch.log(data)
    clauses = _clauses(gold, train or ()) if negatives and extractor else []
    name = f"{model}@{revision}" if revision else model
    for decoding in decodings if extractor else ("given",):
        conditions = sampling.floor(min_score), thresholds, str(sampling) if temperature else ""
        contract = Contract(name, data, split, len(gold), fingerprint(gold), decoding, *conditions)
        evaluated = partial(EvaluationResult, contract, gold, labels=labels, train=train)
        if extractor is None:
            yield evaluated(predicted=answers, target=None)
            continue
        kept: dict[str, Any] = {"min_score": min_score, "thresholds": thresholds, "batch_tokens": batch_tokens}
        options = {"constrained": decoding == "constrained", "progress": True, **kept, **asdict(sampling)}
        predicted = StoredDecoded.of(extractor.predictions(gold.rows["text"], **options))
        added = list(zip(clauses, extractor.predictions([clause.text for clause in clauses], **options), strict=True))
        told = summary(judged(gold, predicted, located=extractor.codec.located))
        confidence = told if told["surfaces"] else {}
        yield evaluated(predicted=predicted, confidence=confidence, added=added, target=extractor.config.target)


def _answers(path: str, gold: StoredExamples, data: str) -> tuple[StoredDecoded, LabelSet]:
    """The predictions of a file, and the labels to score them with."""
    predicted = StoredDecoded.of(iter_predictions(path, gold))
    names = labels_of_predictions(path, gold, predicted)
    return predicted, CLUENER if data in NAMED else LabelSet.of(sorted(names))


def _clauses(gold: Iterable[Example], train: Iterable[Example]) -> list[Example]:
    """Clauses of `gold` without entities, also those of `train`."""
    return entity_free((example for example in gold if example.entities), surfaces_of(chain(gold, train)))


def _check_entities(gold: StoredExamples, place: str, watch: Watch, extractor: Extractor | None) -> None:
    """Raise `NerError` if no row has an entity to score."""
    if any(example.entities for example in gold):
        return
    remedy = "use `qwen-ner predict` on unlabelled texts"
    if extractor and watch.left_out:
        known = join_names(extractor.config.labels.names, 20)
        remedy = f"its labels are {join_names(watch.left_out, 20)}, the model's {known}"
    raise NerError("no entity to score", place=place, remedy=remedy)


def _not_trained_on(
    gold: StoredExamples, model: str, data: str, split: str
) -> tuple[StoredExamples, StoredExamples | None]:
    """The rows to score and, if those that the model was trained on are left out of them, these.

    They are left out of a single file that is the data of the training; else, and of the model whose predictions a file
    has, they are warned of.
    """
    given = Path(model).is_file()
    model = _writer_of(Path(model)) if given else model
    trained = load_trained_texts(Path(model)) if model else None
    if trained is None and model:
        what = "it is not known which rows %s was trained on: no %s here, which `train` writes and `push` leaves out."
        log.info(what, model, TRAINED_TEXTS)
    if trained is None or not len(gold):
        return gold, None
    seen, same_data = trained_on(gold, trained)
    known, others = np.flatnonzero(seen), np.flatnonzero(~seen)
    said = f"{model} was trained on {len(known):,} of the {count(len(gold), 'row')} of {data} {split}"
    if same_data and len(others) and not given and Path(data).expanduser().is_file():
        what = "%s: the others (%s), which may have chosen its checkpoint, are scored. To score all, add --split train."
        log.info(what, said, f"{len(others):,}")
        return gold.select(others), gold.select(known)
    if len(known):
        log.log(
            logging.WARNING if len(known) >= WARNED_SHARE * len(gold) else logging.INFO,
            "%s: on these its score is better than on new ones (texts count as equal if only punctuation, width or "
            "case differ). Score a file or split whose rows it was not trained on.",
            said,
        )
    return gold, None


def _writer_of(predictions: Path) -> str:
    """The name of the model that wrote a file of predictions, as `predict` notes it beside the file; else ""."""
    try:
        record = json.loads(predictions.with_name(predictions.name + META).read_text(encoding="utf-8"))
        return str(record[NAME])
    except (OSError, ValueError, LookupError, TypeError):
        return ""
