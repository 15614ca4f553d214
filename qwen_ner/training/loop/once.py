"""Each row of an epoch counted once, whatever the number of ranks.

In: the Trainer's batches. Out: the same, with rows that are there for the second time left out of the loss. Knows
nothing of how a batch is laid out.

Ranks take steps together, so the last batch of an epoch is filled with rows from its beginning where the number of rows
does not divide. Trained on, these would weigh twice, and two ranks would not give the weights of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import Trainer

from .oom_replay import Kept


class OnceTrainer(Trainer):
    """Trainer for which no row of an epoch counts twice. Its batches are those of a `KeepingCollator`."""

    data_collator: Any

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
                first = last - self.args.process_index * own
                rows = [{**row, "counted": i < first} for i, row in enumerate(batch["rows"].rows)]
                again = {key: value.to(batch[key].device) for key, value in self.data_collator(rows).items()}
                batch = {**batch, **again, "rows": Kept(rows)}
            yield batch
