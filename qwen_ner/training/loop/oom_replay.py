"""Continue a training that runs out of memory with the same batches in smaller parts.

In: batches, and the rows that they were made of. Out: the same loss and gradient in less memory, or an error that says
which batch size to ask for. Knows nothing of how a batch is laid out and of how its loss is computed.

The gradient of a step is a sum over its supervised tokens, divided by their number in the whole step, so it can be
accumulated over any split of its rows. What a failed attempt added to the gradients cannot be told from what was there
before: the gradients are dropped, and all batches of the step so far are run again.

Several processes exchange gradients during the last backward pass of a step, in an order that a second attempt of one
of them would break. There, and in sharded training, whose forward pass waits for the other processes too, a process
cannot try again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from accelerate.utils.memory import clear_device_cache

from ...columns import first_line
from ...entities import NerError
from ...inference.backends.oom import out_of_memory
from ..arguments import CHECKPOINTING, how_to_go_on
from ..batches.collate import IGNORED
from ..batches.step import Step

if TYPE_CHECKING:
    from .trainer import NerTrainer

log = logging.getLogger(__name__)

Rows = Sequence[dict[str, Any]]
Batch = dict[str, Any]

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)

SMALLER = f"set {CHECKPOINTING}: true, lower max_length, train an adapter (lora_r: 16), or use more memory"


def parts_of(rows: Rows, held: int | None) -> Iterator[Rows]:
    """The fewest parts of at most `held` rows, of nearly equal size.

    >>> list(parts_of([1, 2, 3], 2)), list(parts_of([1, 2, 3], None))
    ([[1], [2, 3]], [[1, 2, 3]])
    """
    number = 1 if held is None else -(-len(rows) // held)
    for at in range(number):
        start, end = (n * len(rows) // number for n in (at, at + 1))
        yield rows[start:end]


class OutOfMemoryReplay:
    """Halves a batch that does not fit into the memory, and all batches after it.

    `rows_held` is the number of rows to take at a time (None: the whole batch), `evaluated_rows_held` the same for the
    loss of an evaluation. `step_rows` holds the rows of the current optimizer step, batch by batch. Raises `NerError`
    if a single row does not fit, and where several processes cannot try again.
    """

    def __init__(self, trainer: NerTrainer, step: Step) -> None:
        self.trainer, self.step = trainer, step
        self.rows_held: int | None = None
        self.evaluated_rows_held: int | None = None
        self.step_rows: list[Rows] = []
        self._step_ended = False

    def train(self, model: Any, rows: Rows, batch: Batch, number: Any, run: Callable[[Batch], Any]) -> torch.Tensor:
        """The loss of a micro-batch, its gradients added to the model's.

        `number` is the number of supervised tokens in the step, None where the model does not divide by it; `run` takes
        a batch forward and backward.
        """
        if self._step_ended:
            self.step_rows.clear()
        self._step_ended = self.trainer.accelerator.sync_gradients
        self.step_rows.append(rows)
        asked = self.rows_held
        parts = list(parts_of(rows, self.rows_held))
        while isinstance(losses := self._attempt(model, parts, batch, number, run), int):
            model.zero_grad(set_to_none=True)
            self.rows_held = self._fewer(losses, "a batch")
            parts = [part for before in self.step_rows for part in parts_of(before, self.rows_held)]
        if self.rows_held is not None and self.rows_held != asked:
            each, times = _same_batch(len(rows), self.trainer.args.gradient_accumulation_steps, self.rows_held)
            log.warning(
                "Step %d: a batch of %d rows ran out of memory. From now on batches are taken in parts of at most %d, "
                "whose gradients are accumulated: the effective batch size stays the same. To start like this, use "
                "--per_device_train_batch_size %d --gradient_accumulation_steps %d.",
                *(self.trainer.state.global_step + 1, len(rows), self.rows_held, each, times),
            )
        return torch.stack(losses[-len(list(parts_of(rows, self.rows_held))) :]).sum()

    def _attempt(
        self, model: Any, parts: Sequence[Rows], whole: Batch, number: Any, run: Callable[[Batch], Any]
    ) -> list[torch.Tensor] | int:
        """The loss of each part, or the number of rows of the part that did not fit.

        `whole` is the batch if it is the only part. Processes exchange their gradients with the last part.
        """
        losses = []
        for at, part in enumerate(parts):
            last = at == len(parts) - 1
            batch = whole if len(parts) == 1 else self.trainer.data_collator.collate(part)
            try:
                with nullcontext() if last else self.trainer.accelerator.no_sync(model):
                    losses.append(self.step(model, lambda batch=batch: run(dict(batch))))  # type: ignore[misc]
                continue
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if why := self._cannot_repeat(last, number):
                    raise self._too_large(error, why) from error
            # The error no longer holds the tensors of the batch here.
            clear_device_cache(garbage_collection=True)
            return len(part)
        return losses

    def _error(self, what: str, remedy: str) -> NerError:
        return NerError(what, place=f"step {self.trainer.state.global_step + 1}", remedy=remedy)

    def _cannot_repeat(self, last: bool, number: Any) -> str:
        """Why a failed part cannot be tried again; empty if it can."""
        args, accelerator = self.trainer.args, self.trainer.accelerator
        if accelerator.distributed_type in SHARDED:
            return "sharded training cannot halve it by itself"
        if args.world_size > 1 and args.ddp_broadcast_buffers is not False:
            return "with ddp_broadcast_buffers, which every forward pass waits for, it cannot be halved"
        if args.world_size > 1 and last and self.step.has_loss and accelerator.sync_gradients:
            return f"while {args.world_size} processes exchange their gradients it cannot be halved"
        return "" if number is not None else "this model does not take the number of tokens of a step"

    def _too_large(self, error: Exception, why: str) -> NerError:
        args = self.trainer.args
        size = args.per_device_train_batch_size
        each, times = _same_batch(size, args.gradient_accumulation_steps, max(1, size // 2))
        sizes = f"--per_device_train_batch_size {each} --gradient_accumulation_steps {times}"
        remedy = f"{how_to_go_on(args, sizes)}, with the same steps"
        what = f"a batch of {size} rows ran out of memory ({first_line(error)[:200]}), and {why}"
        return self._error(what, remedy if size > 1 else SMALLER)

    def _fewer(self, rows: int, what: str) -> int:
        if rows == 1:
            raise self._error(f"a single row of {what} does not fit into the memory", SMALLER)
        return (rows + 1) // 2

    def evaluate(self, model: Any, rows: Rows, batch: Batch) -> torch.Tensor:
        """The loss of `rows`, which `batch` was made of, without gradients; in halves if the memory requires it."""
        trainer, collate = self.trainer, self.trainer.data_collator.collate
        parts = list(parts_of(rows, self.evaluated_rows_held))
        try:
            batches = [batch] if len(parts) == 1 else (trainer._prepare_inputs(collate(part)) for part in parts)
            weighted = [
                (int((one["shift_labels"] != IGNORED).sum()), trainer.compute_loss(model, dict(one)).detach())
                for one in batches
            ]
            tokens = sum(number for number, _ in weighted)
            return torch.stack([loss * (number / tokens) for number, loss in weighted]).sum()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if trainer.accelerator.distributed_type in SHARDED:
                what = f"an evaluation of {len(rows)} rows at a time ran out of memory ({first_line(error)[:200]})"
                raise NerError(what, remedy="lower per_device_eval_batch_size") from error
        clear_device_cache(garbage_collection=True)
        self.evaluated_rows_held = held = self._fewer(len(parts[0]), "an evaluation")
        log.warning("A batch of %d rows ran out of memory in an evaluation; the next have at most %d.", len(rows), held)
        return self.evaluate(model, rows, batch)

    def explain(self, error: RuntimeError) -> NerError:
        """The error of a training that ran out of memory outside of its batches."""
        remedy = "train an adapter (lora_r: 16), a smaller model, or on a device with more memory"
        what = f"out of memory, apart from what the rows of a batch take ({first_line(error)[:200]})"
        return self._error(what, remedy)


def _same_batch(size: int, accumulation: int, held: int) -> tuple[int, int]:
    """Batch size and accumulation steps of the same effective batch size, with at most `held` rows at a time.

    >>> _same_batch(64, 1, 32), _same_batch(15, 2, 8), _same_batch(7, 1, 4)
    ((32, 2), (5, 6), (1, 7))
    """
    each = next(part for part in range(min(held, size), 0, -1) if size % part == 0)
    return each, accumulation * size // each
