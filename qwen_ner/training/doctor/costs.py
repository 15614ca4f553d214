"""What a training costs: steps, tokens, memory, disk.

In: numbers of rows, token lengths, an outline of the model. Out: counts and bytes. Loads no weights and computes no
loss: batches go through the model as fake tensors, which have shapes and no values.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ...inference.backends.prefix_cache import shared_prefix
from ..arguments import CHECKPOINTING, NerTrainingArguments
from ..batches.collate import PaddedCollator, PrefixSharedCollator, choose_collator
from ..batches.reduced_head import head_over

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOAT32 = 4
ADAM = 2 * FLOAT32
"""Bytes that AdamW keeps per trained parameter: two moments."""

BESIDE_THE_WEIGHTS = 20 << 20
"""Bytes of a checkpoint beside weights and moments: tokenizer.json (11 MB for Qwen), random states, scheduler, logs."""


def parameters(model: PreTrainedModel) -> tuple[int, int]:
    """(all parameters, trained parameters); a tied weight counts once."""
    every = list(model.parameters())
    return sum(p.numel() for p in every), sum(p.numel() for p in every if p.requires_grad)


def count_steps(args: NerTrainingArguments, rows: int, processes: int) -> tuple[int, int]:
    """(optimizer steps of the training, steps of an epoch), as the Trainer counts them."""
    batches = -(-rows // (processes * args.per_device_train_batch_size))
    an_epoch = max(-(-batches // args.gradient_accumulation_steps), 1)
    return args.max_steps if args.max_steps > 0 else -int(-args.num_train_epochs * an_epoch // 1), an_epoch


def computed_tokens(prompts: Sequence[Sequence[int]], lengths: Sequence[int], batch: int) -> int:
    """Tokens of a pass over the rows in which each batch computes the common prefix of the prompts once."""
    prefix = len(shared_prefix(prompts)) if len(prompts) > 1 else 0
    return sum(lengths) - prefix * (len(lengths) - -(-len(lengths) // batch))


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the peak of a step: an upper estimate, since not all of it is held at the same time.

    `weights` take 4 bytes per parameter (float32 masters), `gradients` 4 and `optimizer` 8 (Adam's moments) per trained
    parameter; with several processes the gradients count twice, since the buckets that are exchanged hold them too.
    `activations` is what autograd keeps of the largest batch for the backward pass, counted tensor by tensor on fake
    tensors. It contains the cast copies of the weights under bf16, and the log-probabilities: 4 bytes per supervised
    token and token of the vocabulary (with an adapter, of the training rows). `logits` are two more of these, the
    logits and their gradient. Not counted: CUDA context and fragmentation (about 1 GB), libraries (about 0.7 GB of
    RAM), evaluation (less than a step).
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def sharded(self, processes: int, *, weights: bool, states: bool) -> Memory:
        """The share of one process if they shard weights (FSDP, ZeRO-3), or gradients and moments (ZeRO-2)."""
        of_weights, of_states = processes if weights else 1, processes if states else 1
        return replace(
            self,
            weights=self.weights // of_weights,
            gradients=self.gradients // of_states,
            optimizer=self.optimizer // of_states,
        )


def expected_memory(
    model: PreTrainedModel,
    rows: Sequence[dict[str, Any]],
    collator: PaddedCollator | PrefixSharedCollator,
    *,
    bf16: bool,
    checkpointing: bool = False,
    processes: int = 1,
    tokens: torch.Tensor | None = None,
) -> Memory:
    """The memory that one process needs for a step on `rows`, the largest batch. Consumes `model`, an outline.

    `tokens` are those of all training rows: the loss is computed over them if the head is frozen (`head_over`).
    """
    every, trained = parameters(model)
    config = model.config.get_text_config()
    if isinstance(collator, PrefixSharedCollator):
        collator = choose_collator(model, 0)  # sets the default attention; other masks are made from values
    batch = collator(rows)
    supervised = batch["shift_labels"].numel()
    _to_fake(model, mode := FakeTensorMode(allow_non_fake_inputs=True))
    model.train()
    with nullcontext(config.vocab_size) if tokens is None else head_over(tokens, model) as width:
        activations = _fake_kept_bytes(model, batch, bf16, mode)
        if checkpointing:
            of_a_layer = activations // config.num_hidden_layers  # one layer at a time is computed again
            getattr(model, f"{CHECKPOINTING}_enable")({"use_reentrant": False})
            model.enable_input_require_grads()
            activations = of_a_layer + _fake_kept_bytes(model, batch, bf16, mode)
    gradients = FLOAT32 * trained * (2 if processes > 1 else 1)
    logits = 2 * FLOAT32 * supervised * width
    return Memory(FLOAT32 * every, gradients, ADAM * trained, activations, logits)


def _to_fake(model: PreTrainedModel, mode: FakeTensorMode) -> None:
    """Replace the outline's tensors by fake ones on the CPU, in place: autocast does nothing on the meta device."""
    fakes: dict[int, torch.Tensor] = {}
    with mode:
        for module in model.modules():
            for name, old in list(module._parameters.items()):
                if old is not None:
                    if id(old) not in fakes:  # a tied weight stays one
                        fakes[id(old)] = torch.nn.Parameter(torch.empty(old.shape, dtype=old.dtype), old.requires_grad)
                    module._parameters[name] = fakes[id(old)]
            for name, old in list(module._buffers.items()):
                if old is not None:
                    module._buffers[name] = torch.empty(old.shape, dtype=old.dtype)


def _fake_kept_bytes(model: PreTrainedModel, batch: dict[str, torch.Tensor], bf16: bool, mode: FakeTensorMode) -> int:
    fake = {key: mode.from_tensor(value) for key, value in batch.items()}
    with mode:
        return kept_bytes(model, fake, bf16=bf16)


def kept_bytes(model: torch.nn.Module, batch: dict[str, torch.Tensor], *, bf16: bool) -> int:
    """Bytes that autograd keeps of `model`'s loss on `batch` for the backward pass, without its parameters."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = tensor  # held, so that no other storage takes its address
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = model(**batch).loss
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    return total


def checkpoint_bytes(every: int, trained: int, lora: bool, *, with_optimizer: bool = True) -> int:
    """Bytes of a checkpoint on disk: the saved weights (with LoRA, the adapter's) and Adam's moments."""
    weights = FLOAT32 * (trained if lora else every)
    return weights + ADAM * trained * with_optimizer + BESIDE_THE_WEIGHTS


def kept_checkpoints(args: NerTrainingArguments, steps: int, steps_of_an_epoch: int) -> int:
    """The most checkpoints on disk at any time: a new one is written before the oldest is deleted."""
    if args.save_strategy == "no":
        return 0
    every = steps_of_an_epoch if args.save_strategy in ("epoch", "best") else args.save_steps
    every = every * steps if every < 1 else every
    written = max(1, -int(-steps // max(every, 1)))
    limit = args.save_total_limit
    return written if limit is None else min(written, max(limit, 1 + args.load_best_model_at_end) + 1)


def format_size(number: int) -> str:
    """
    >>> format_size(1_976_131_072), format_size(20 << 20)
    ('1.8 GiB', '20 MiB')
    """
    return f"{number / 2**30:.1f} GiB" if number >= 2**29 else f"{number / 2**20:.0f} MiB"
