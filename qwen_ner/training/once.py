"""Each row of an epoch counted once, whatever the number of ranks.

In: the Trainer's batches. Out: the same, with rows that are there for the second time left out of the loss. Knows
nothing of how a batch is laid out beyond its `shift_labels`, the supervised tokens row after row.

Ranks take steps together, so the last batch of an epoch is filled with rows from its beginning where the number of rows
does not divide. Trained on, these would weigh twice, and two ranks would not give the weights of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Trainer

from .collate import IGNORED


@dataclass(frozen=True)
class CountingCollator:
    """What `collate` makes of the rows, and `supervised` (rows,): how many tokens of each are in the loss."""

    collate: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]]

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {**self.collate(rows), "supervised": torch.tensor([len(row["answer_ids"]) for row in rows])}


def first_rows(batch: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    """`batch` of a `CountingCollator` with nothing but its first `rows` rows in the loss.

    >>> batch = {"shift_labels": torch.tensor([5, 9, 6, 7, 9]), "supervised": torch.tensor([2, 3])}
    >>> first_rows(batch, 1)["shift_labels"].tolist()
    [5, 9, -100, -100, -100]
    """
    labels = batch["shift_labels"].clone()
    labels[int(batch["supervised"][: max(0, rows)].sum()) :] = IGNORED
    return {**batch, "shift_labels": labels}


class OnceTrainer(Trainer):
    """Trainer for which no row of an epoch counts twice."""

    data_collator: Any

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        collator = self.data_collator
        self.data_collator = CountingCollator(collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        return super().get_batch_samples(self._once(epoch_iterator), num_batches, device)

    def _once(self, batches: Iterator[dict[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
        for batch in batches:
            own = len(batch["supervised"])
            # Not accelerate's own `remainder`: the loader of an epoch that is gone on with after a resume has none.
            last = len(self.train_dataset) % (own * self.args.world_size)
            ends = self.accelerator.gradient_state.end_of_dataloader and not self.args.dataloader_drop_last
            if self.args.world_size > 1 and last and ends:
                # The first rank takes the first rows of the last batches, the second the next.
                batch = first_rows(batch, last - self.args.process_index * own)
            yield {key: value for key, value in batch.items() if key != "supervised"}
