"""Entity F1 of generated completions, as a metric of the `evaluate` library.

In: completions as the model wrote them, and texts with their gold entities. Out: `Scores.metrics()`. Knows nothing of
training; decoding is the codec's and counting is `score`'s, so that the numbers are those that training prints.

`evaluate.load` copies this file elsewhere and finds its imports by reading lines: one statement a line, none relative.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from qwen_ner.codec import Codec
from qwen_ner.entities import Entity, Example, LabelSet, NerError
from qwen_ner.evaluation.scoring import score

_DESCRIPTION = """
F1 of the entities in generated JSON: micro over each row's set of (label, surface) pairs (f1), strict over label and
offsets (span_f1), mean over labels (macro_f1), with the counts of what was wrong in the completions.
"""

_INPUTS = """
Args:
    predictions (list of str): completions as generated, such as '{"company":["三星"]}'.
    references (list of dict): {"text": str, "entities": [{"label": str, "start": int, "end": int}]}, half-open offsets
        that count characters. Other keys are refused.
    labels (list of str): the names of the label set.
    finished (list of bool, optional): whether the model wrote its end token; all of them, if not given.
Returns:
    dict of fractions and counts: f1, precision, recall, span_f1, macro_f1, f1_<label>, tp, fp, fn, not_json, ...
"""

_CITATION = """
@article{xu2020cluener2020,
  title={CLUENER2020: Fine-grained Named Entity Recognition Dataset and Benchmark for Chinese},
  author={Xu, Liang and Tong, Yu and Dong, Qianqian and Liao, Yixuan and Yu, Cong and Tian, Yin and Liu, Weitang and
    Li, Lu and Liu, Caiquan and Zhang, Xuanwei},
  journal={arXiv preprint arXiv:2001.04351},
  year={2020}
}
"""


class EntityF1(evaluate.Metric):
    """`evaluate.load("<this file>")` or `EntityF1()`; then `compute`, at once or after `add` and `add_batch`.

    In a single process the rows stay in memory: `evaluate`'s default is one Arrow file and one lock for all, where the
    ranks of a training would queue. In `compute_metrics` load it plainly: the Trainer has gathered already.

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

    def __init__(
        self,
        config_name: str | None = None,
        keep_in_memory: bool = False,
        cache_dir: str | None = None,
        num_process: int = 1,
        **options: Any,
    ) -> None:
        # evaluate.load() always passes keep_in_memory, False unless its caller says otherwise; with several processes
        # evaluate needs its files, and refuses memory itself.
        super().__init__(config_name, keep_in_memory or num_process == 1, cache_dir, num_process, **options)

    def _info(self) -> evaluate.MetricInfo:
        entity = {"label": datasets.Value("string"), "start": datasets.Value("int64"), "end": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": {"text": datasets.Value("string"), "entities": [entity]},
                }
            ),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[dict[str, Any]],
        *,
        labels: list[str],
        finished: list[bool] | None = None,
    ) -> dict[str, float | int]:
        if finished is None:
            finished = [True] * len(predictions)
        if len(finished) != len(predictions):
            raise NerError(
                f"{len(predictions)} predictions and {len(finished)} values of finished; give one for each prediction, "
                "in the order the predictions were added"
            )
        if missing := [row for row, completion in enumerate(predictions) if completion is None]:
            raise NerError(f"predictions[{missing[0]}] is None; give what was generated, '' if nothing was")
        codec = Codec(LabelSet.of(labels))
        gold = [_example(row, reference) for row, reference in enumerate(references)]
        predicted = [
            codec.decode(example.text, completion, finished=bool(whole))
            for example, completion, whole in zip(gold, predictions, finished, strict=True)
        ]
        return score(gold, predicted, codec.labels).metrics()


def _example(row: int, reference: dict[str, Any]) -> Example:
    """The reference as an `Example`. Arrow stores what a reference leaves out as None, in any row but the first."""
    text, spans = reference["text"], reference["entities"]
    if text is None or spans is None or any(None in span.values() for span in spans):
        raise NerError(f"references[{row}] is {reference}; it needs a text, and label, start and end of each entity")
    try:
        entities = tuple(Entity(s["label"], text[s["start"] : s["end"]], s["start"], s["end"]) for s in spans)
        return Example(str(row), text, entities, source=f"references[{row}]")
    except NerError as fault:
        raise NerError(f"references[{row}]: {fault}") from None
