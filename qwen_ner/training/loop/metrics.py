"""`compute_metrics`: entity F1 of the text generated for each row.

In: generated ids and row numbers, the gold examples. Out: the metrics of `EntityF1`. Knows nothing of the Trainer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

from ...codec import Codec, Decoded
from ...entities import Example
from ...evaluation.entity_f1 import EntityF1
from ...inference.backends.torch import until_end
from ...inference.loading import decode_ids
from ..batches.collate import IGNORED


class EntityMetrics:
    """`compute_metrics`: looks up the gold example of each generated row by its number, and scores it.

    `gold[n]` is the example that row n of the data set was made from. Metrics are those of `EntityF1`. `last` holds the
    latest predictions, for trackers that show them.
    """

    def __init__(self, gold: Sequence[Example], codec: Codec, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]):
        self.gold, self.codec, self.tokenizer, self.ends = gold, codec, tokenizer, set(ends)
        self.metric = EntityF1()
        self.last: EvalPrediction | None = None

    def __call__(self, prediction: EvalPrediction) -> dict[str, float | int]:
        self.last = prediction
        examples, completions, finished = self._completions(prediction)
        references = [
            {
                "text": example.text,
                "entities": [{"label": e.label, "start": e.start, "end": e.end} for e in example.entities],
            }
            for example in examples
        ]
        return self.metric.compute(
            predictions=completions, references=references, labels=list(self.codec.labels.names), finished=finished
        )

    def decoded(self, prediction: EvalPrediction) -> tuple[list[Example], list[Decoded]]:
        """The examples of `prediction` in row order, and what was predicted for each."""
        examples, completions, finished = self._completions(prediction)
        return examples, [
            self.codec.decode(example.text, completion, finished=done)
            for example, completion, done in zip(examples, completions, finished, strict=True)
        ]

    def _completions(self, prediction: EvalPrediction) -> tuple[list[Example], list[str], list[bool]]:
        rows = np.asarray(prediction.label_ids)
        if len(set(rows.tolist())) != len(rows):
            raise RuntimeError(f"{len(rows)} predictions for {len(set(rows.tolist()))} rows; each row must come once")
        order = np.argsort(rows)
        ids, finished = [], []
        for row in np.asarray(prediction.predictions)[order]:
            kept, done = until_end([token for token in row.tolist() if token != IGNORED], self.ends)
            ids.append(kept)
            finished.append(done)
        return [self.gold[i] for i in rows[order]], decode_ids(self.tokenizer, ids), finished
