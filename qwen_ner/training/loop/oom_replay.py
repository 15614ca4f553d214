"""A training that runs out of memory goes on with the same batches in smaller parts.

In: the Trainer's batches, and the rows that they were made of. Out: the same loss and gradient, in less memory; or an
error that says which batch size to ask for. Knows nothing of how a batch is laid out.

The gradient of a step is a sum over its supervised tokens, divided by their number in the whole step, so it may be
added up over any split of its rows. What a failed attempt has added to it cannot be told from what was there before:
the gradients are dropped, and all batches of the step so far are run again.

Several processes add up their gradients while the last batch of a step goes backward, in an order that a second attempt
of one of them would break; that is the one place where a process of several cannot try again, beside sharded training,
whose forward pass waits for the other processes too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DistributedType
from accelerate.utils.memory import clear_device_cache
from transformers import Trainer

from ...entities import NerError
from ...inference.backends.oom import out_of_memory
from ..batches.collate import IGNORED

log = logging.getLogger(__name__)

Rows = Sequence[dict[str, Any]]

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


@dataclass(frozen=True)
class Kept:
    """The rows of a batch beside its tensors; as an object of its own nothing on the way to the model looks into it."""

    rows: Rows


def parts_of(rows: Rows, held: int | None) -> Iterator[Rows]:
    """As few parts of at most `held` rows as there must be, of nearly equal size.

    >>> list(parts_of([1, 2, 3], 2)), list(parts_of([1, 2, 3], None))
    ([[1], [2, 3]], [[1, 2, 3]])
    """
    number = 1 if held is None else -(-len(rows) // held)
    for at in range(number):
        start, end = (n * len(rows) // number for n in (at, at + 1))
        yield rows[start:end]


@dataclass(frozen=True)
class KeepingCollator:
    """What `collate` makes of the rows, and the rows themselves under `rows`."""

    collate: Callable[[Rows], dict[str, Any]]

    def __call__(self, rows: Rows) -> dict[str, Any]:
        return {**self.collate(rows), "rows": Kept(rows)}


class HalvingTrainer(Trainer):
    """Trainer that halves a batch which does not fit into the memory, and all that come after it.

    `rows_held` are the rows that are taken at a time, None for the whole batch; `evaluated_rows_held` the same for the
    loss of an evaluation. Raises `NerError` where a single row does not fit, and where several processes cannot try
    again.
    """

    data_collator: Any
    rows_held: int | None = None
    evaluated_rows_held: int | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batches: list[Rows] = []  # of this step, so far
        self._goes_backward = False

    def train(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().train(*args, **kwargs)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise NerError(
                f"step {self.state.global_step + 1}: out of memory, beside what the rows of a batch take "
                f"({_line(error)}); train an adapter (lora_r: 16), a smaller model, or on a device with more memory"
            ) from error

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        collator = self.data_collator
        self.data_collator = KeepingCollator(collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        rows = inputs.pop("rows").rows
        self._batches.append(rows)
        asked = self.rows_held
        parts = list(parts_of(rows, self.rows_held))
        while isinstance(losses := self._attempt(model, parts, inputs, num_items_in_batch), int):
            model.zero_grad(set_to_none=True)
            self.rows_held = self._fewer(losses, "a batch")
            parts = [part for before in self._batches for part in parts_of(before, self.rows_held)]
        if self.rows_held is not None and self.rows_held != asked:
            each, times = _same_batch(len(rows), self.args.gradient_accumulation_steps, self.rows_held)
            log.warning(
                "Step %d: a batch of %d rows ran out of memory. From here on it is taken in parts of at most %d, whose "
                "gradients are added up: the effective batch stays the same. --per_device_train_batch_size %d "
                "--gradient_accumulation_steps %d asks for that from the start.",
                self.state.global_step + 1,
                len(rows),
                self.rows_held,
                each,
                times,
            )
        if self.accelerator.sync_gradients:
            self._batches.clear()
        return torch.stack(losses[-len(list(parts_of(rows, self.rows_held))) :]).sum()

    def _attempt(
        self, model: Any, parts: Sequence[Rows], whole: dict[str, Any], num_items_in_batch: Any
    ) -> list[torch.Tensor] | int:
        """The loss of each part, its gradients added to the model's; or the rows of the part that did not fit.

        `whole` is the batch if it is the only part. Gradients meet those of other processes with the last part.
        """
        losses = []
        for at, part in enumerate(parts):
            last = at == len(parts) - 1
            batch = whole if len(parts) == 1 else self.data_collator(part)
            self._goes_backward = False
            try:
                with nullcontext() if last else self.accelerator.no_sync(model):
                    losses.append(super().training_step(model, dict(batch), num_items_in_batch))
                continue
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if why := self._cannot_repeat(last, num_items_in_batch):
                    raise self._too_large(error, why) from error
            # Here the error no longer holds the tensors of the batch.
            clear_device_cache(garbage_collection=True)
            return len(part)
        return losses

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        self._goes_backward = True
        return loss

    def _cannot_repeat(self, last: bool, num_items_in_batch: Any) -> str:
        """Why a failed part cannot be tried again; empty where it can."""
        if self.accelerator.distributed_type in SHARDED:
            return "sharded training cannot halve it by itself"
        if self.args.world_size > 1 and self.args.ddp_broadcast_buffers is not False:
            return "with ddp_broadcast_buffers, which a forward pass waits for, it cannot be halved"
        if self.args.world_size > 1 and last and self._goes_backward and self.accelerator.sync_gradients:
            return f"while {self.args.world_size} processes exchange their gradients it cannot be halved"
        return "" if num_items_in_batch is not None else "this model does not take the number of tokens of a step"

    def _too_large(self, error: Exception, why: str) -> NerError:
        size, accumulation = self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps
        each, times = _same_batch(size, accumulation, max(1, size // 2))
        remedy = (
            f"give the same command again with --per_device_train_batch_size {each} --gradient_accumulation_steps "
            f"{times}, which is the same effective batch and goes on from the last checkpoint"
            if size > 1
            else "set gradient_checkpointing: true, lower max_length, or take a device with more memory"
        )
        return NerError(
            f"step {self.state.global_step + 1}: a batch of {size} rows ran out of memory ({_line(error)}), and {why}; "
            f"{remedy}"
        )

    def _fewer(self, rows: int, what: str) -> int:
        if rows == 1:
            raise NerError(
                f"step {self.state.global_step + 1}: a single row of {what} does not fit into the memory; set "
                "gradient_checkpointing: true, lower max_length, train an adapter (lora_r: 16), or take a device with "
                "more memory"
            )
        return (rows + 1) // 2

    def loss_of(self, model: Any, rows: Rows, batch: dict[str, Any]) -> torch.Tensor:
        """The loss of `rows`, which `batch` is made of, without a gradient; halved where the memory asks for it."""
        while True:
            parts = list(parts_of(rows, self.evaluated_rows_held))
            try:
                batches = [batch] if len(parts) == 1 else (self._prepare_inputs(self.data_collator(p)) for p in parts)
                weighted = [
                    (int((one["shift_labels"] != IGNORED).sum()), self.compute_loss(model, dict(one)).detach())
                    for one in batches
                ]
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self.accelerator.distributed_type in SHARDED:
                    raise NerError(
                        f"an evaluation of {len(rows)} rows at a time ran out of memory ({_line(error)}); lower "
                        "per_device_eval_batch_size"
                    ) from error
            else:
                tokens = sum(number for number, _ in weighted)
                return torch.stack([loss * (number / tokens) for number, loss in weighted]).sum()
            clear_device_cache(garbage_collection=True)
            self.evaluated_rows_held = self._fewer(len(parts[0]), "an evaluation")
            log.warning(
                "A batch of %d rows ran out of memory in an evaluation; from here on at most %d at a time.",
                len(rows),
                self.evaluated_rows_held,
            )


def _same_batch(size: int, accumulation: int, held: int) -> tuple[int, int]:
    """Batch size and accumulation of the same effective batch, with at most `held` rows at a time.

    >>> _same_batch(64, 1, 32), _same_batch(15, 2, 8), _same_batch(7, 1, 4)
    ((32, 2), (5, 6), (1, 7))
    """
    each = next(part for part in range(min(held, size), 0, -1) if size % part == 0)
    return each, accumulation * size // each


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
