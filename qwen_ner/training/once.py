"""Each row of an epoch counted once, whatever the number of ranks.

In: the Trainer's batches. Out: the same, with rows that are there for the second time left out of the loss. Knows
nothing of how a batch is laid out beyond its `shift_labels`, the supervised tokens row after row.

Ranks take steps together, so the last batch of an epoch is filled with rows from its beginning where the number of rows
does not divide. Trained on, these would weigh twice, and two ranks would not give the weights of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import Trainer

from .collate import IGNORED


def first_rows(batch: dict[str, Any], number: int) -> dict[str, Any]:
    """`batch` of a `KeepingCollator` with nothing but its first `number` rows in the loss.

    >>> from .memory import Kept
    >>> rows = [{"answer_ids": [5, 9]}, {"answer_ids": [6, 7, 9]}]
    >>> first_rows({"shift_labels": torch.tensor([5, 9, 6, 7, 9]), "rows": Kept(rows)}, 1)["shift_labels"].tolist()
    [5, 9, -100, -100, -100]
    """
    rows = batch["rows"].rows[: max(0, number)]
    labels = batch["shift_labels"].clone()
    labels[sum(len(row["answer_ids"]) for row in rows) :] = IGNORED
    return {**batch, "shift_labels": labels}


class OnceTrainer(Trainer):
    """Trainer for which no row of an epoch counts twice. Its batches are those of a `KeepingCollator`."""

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        return super().get_batch_samples(self._once(epoch_iterator), num_batches, device)

    def _once(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for batch in batches:
            own = len(batch["rows"].rows)
            # Not accelerate's own `remainder`: the loader of an epoch that is gone on with after a resume has none.
            last = len(self.train_dataset) % (own * self.args.world_size)
            ends = self.accelerator.gradient_state.end_of_dataloader and not self.args.dataloader_drop_last
            if self.args.world_size > 1 and last and ends:
                # The first rank takes the first rows of the last batches, the second the next.
                batch = first_rows(batch, last - self.args.process_index * own)
            yield batch
