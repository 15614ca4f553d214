"""`compute_metrics`: entity F1 of the text generated for each row.

In: generated ids, which end with an end token if they are finished and hold none before, and row numbers; the gold
examples. Out: the metrics of `score`. Knows nothing of the Trainer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

from ...codec import Codec, Decoded
from ...entities import Example, fingerprint
from ...evaluation.result import EvaluationResult
from ...evaluation.scoring import score
from ...evaluation.table import Contract
from ...inference.loading import decode_ids
from ...inference.windows import Window, join_windows
from ..batches.collate import IGNORED


class EntityMetrics:
    """`compute_metrics`: looks up the gold example of each generated row by its number, and scores it.

    With `windows` [(n, window), …] row k of the data set is the k-th window, of the text of `gold[n]`; without, it is
    the whole text of `gold[k]`. What was found in the windows of a text is joined before it is scored. `last` holds
    the latest predictions, for trackers that show them.
    """

    def __init__(
        self,
        gold: Sequence[Example],
        codec: Codec,
        tokenizer: PreTrainedTokenizerBase,
        ends: Sequence[int],
        windows: Sequence[tuple[int, Window]] | None = None,
    ) -> None:
        self.gold, self.codec, self.tokenizer, self.ends = gold, codec, tokenizer, set(ends)
        whole = (len(example.text) for example in gold)
        self.windows = windows or [(n, Window(0, length, 0, length)) for n, length in enumerate(whole)]
        self.last: EvalPrediction | None = None

    def __call__(self, prediction: EvalPrediction) -> dict[str, float | int]:
        self.last = prediction
        examples, predicted = self.decoded(prediction)
        return score(examples, predicted, self.codec.labels).metrics()

    def decoded(self, prediction: EvalPrediction) -> tuple[list[Example], list[Decoded]]:
        """The examples of `prediction` in the order of `gold`, and what was predicted for each."""
        found: dict[int, list[tuple[Window, Decoded]]] = defaultdict(list)
        for row, completion, finished in self._completions(prediction):
            n, window = self.windows[row]
            text = self.gold[n].text[window.start : window.end]
            found[n].append((window, self.codec.decode(text, completion, finished=finished)))
        return [self.gold[n] for n in found], [join_windows(own, lambda label: 0.0) for own in found.values()]

    def evaluated(
        self, prediction: EvalPrediction, model: str, data: str, split: str, annotated: Sequence[Example] | None = None
    ) -> EvaluationResult:
        """`prediction`, of rows of `split`, against gold; what occurs in `annotated` counts as seen."""
        gold, predicted = self.decoded(prediction)
        contract = Contract(model, data, split, len(gold), fingerprint(gold), "free")
        return EvaluationResult(contract, gold, predicted, self.codec.labels, annotated, target=self.codec.target)

    def _completions(self, prediction: EvalPrediction) -> Iterator[tuple[int, str, bool]]:
        """(row, text, whether it is finished) of each prediction, in the order of the rows."""
        rows = np.asarray(prediction.label_ids)
        if len(set(rows.tolist())) != len(rows):
            raise RuntimeError(f"{len(rows)} predictions for {len(set(rows.tolist()))} rows; each row must come once")
        order = np.argsort(rows)
        ids, finished = [], []
        for row in np.asarray(prediction.predictions)[order]:
            written = [token for token in row.tolist() if token != IGNORED]
            finished.append(bool(written) and written[-1] in self.ends)
            ids.append(written[:-1] if finished[-1] else written)
        yield from zip(rows[order].tolist(), decode_ids(self.tokenizer, ids), finished, strict=True)
