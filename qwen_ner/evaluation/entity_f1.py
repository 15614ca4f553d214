"""Entity F1 of generated completions, as a metric of the `evaluate` library.

In: completions as the model wrote them, and texts with their gold entities. Out: `Scores.metrics()`. Knows nothing of
training. The codec decodes and `score` counts, so the numbers are those that training prints.

`evaluate.load` copies this file elsewhere and finds its imports line by line: one statement per line, none relative.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from qwen_ner.entities import Entity, Example, LabelSet, NerError
from qwen_ner.evaluation.scoring import score
from qwen_ner.inline import CODECS

_CITATION = "Xu et al., CLUENER2020: Fine-grained Named Entity Recognition Dataset and Benchmark for Chinese, 2020"


class EntityF1(evaluate.Metric):
    """Use `evaluate.load("<this file>")` or `EntityF1()`, then `compute`, at once or after `add` and `add_batch`.

    Args:
        predictions (list of str): completions as generated, such as '{"company":["三星"]}'.
        references (list of dict): {"text": str, "entities": [{"label": str, "start": int, "end": int}]}, with half-open
            character offsets. Other keys are an error.
        labels (list of str): the names of the label set.
        finished (list of bool, optional): whether the model wrote its end token; default: always.
        target (str, optional): what the completions are, as in a recipe: json (default) or inline.
    Returns:
        dict of fractions and counts: f1 (micro, over each row's set of (label, surface) pairs), span_f1 (label and
        offsets), macro_f1 (mean over macro_labels labels: those in gold or predictions, or CLUENER's ten), precision,
        recall, f1_<label>, tp, fp, fn, and the number of completions with each kind of fault: not_json, truncated, ...

    In a single process the rows stay in memory. The default of `evaluate` is one Arrow file with one lock, for which
    the ranks of a training would queue. In `compute_metrics` load it without `num_process`: the Trainer gathers.

    >>> metric = EntityF1()
    >>> entities = [{"label": "company", "start": 0, "end": 2}, {"label": "address", "start": 3, "end": 5}]
    >>> found = metric.compute(
    ...     predictions=['{"company":["三星"]}', "{"],
    ...     references=[{"text": "三星在北京", "entities": entities}, {"text": "你好", "entities": []}],
    ...     labels=["address", "company"],
    ... )
    >>> found["precision"], found["recall"], found["f1_company"], found["not_json"]
    (1.0, 0.5, 1.0, 1)
    """

    def __init__(self, *, keep_in_memory: bool = False, num_process: int = 1, **options: Any) -> None:
        # evaluate.load() always passes keep_in_memory, False by default. With several processes evaluate needs its
        # files and refuses to keep them in memory.
        super().__init__(keep_in_memory=keep_in_memory or num_process == 1, num_process=num_process, **options)

    def _info(self) -> evaluate.MetricInfo:
        entity = {"label": datasets.Value("string"), "start": datasets.Value("int64"), "end": datasets.Value("int64")}
        reference = {"text": datasets.Value("string"), "entities": [entity]}
        features = datasets.Features({"predictions": datasets.Value("string"), "references": reference})
        texts = {"description": __doc__ or "", "inputs_description": EntityF1.__doc__ or "", "citation": _CITATION}
        return evaluate.MetricInfo(features=features, **texts)

    def _compute(
        self,
        predictions: list[str],
        references: list[dict[str, Any]],
        *,
        labels: list[str],
        finished: list[bool] | None = None,
        target: str = "json",
    ) -> dict[str, float | int]:
        finished = [True] * len(predictions) if finished is None else finished
        if len(finished) != len(predictions):
            remedy = "give one a prediction, in the order of the predictions"
            what = f"expected {len(predictions)} values"
            raise NerError(what, value=len(finished), place="finished", remedy=remedy)
        if missing := [row for row, completion in enumerate(predictions) if completion is None]:
            remedy = "give the generated text, '' if there is none"
            raise NerError("no completion", place=f"predictions[{missing[0]}]", remedy=remedy)
        if target not in CODECS:
            raise NerError("no such target", value=target, place="target", remedy=f"give {' or '.join(CODECS)}")
        codec = CODECS[target](LabelSet.of(labels))
        gold = [_example(row, reference) for row, reference in enumerate(references)]
        predicted = [
            codec.decode(example.text, completion, finished=bool(whole))
            for example, completion, whole in zip(gold, predictions, finished, strict=True)
        ]
        return score(gold, predicted, codec.labels).metrics()


def _example(row: int, reference: dict[str, Any]) -> Example:
    """The reference as an `Example`. Arrow stores a missing key as None, in any row but the first."""
    text, spans = reference["text"], reference["entities"]
    if text is None or spans is None or any(None in span.values() for span in spans):
        need = "give a text, and label, start and end of each entity"
        raise NerError("a key is missing", value=reference, place=f"references[{row}]", remedy=need)
    try:
        entities = tuple(Entity(s["label"], text[s["start"] : s["end"]], s["start"], s["end"]) for s in spans)
        return Example(str(row), text, entities, source=f"references[{row}]")
    except NerError as fault:
        raise NerError(str(fault), place=f"references[{row}]") from None
