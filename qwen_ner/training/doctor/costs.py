"""What a training costs: steps, tokens, memory, disk.

In: numbers of rows, token lengths, an outline of the model. Out: counts and bytes. Loads no weights and computes no
loss: batches go through the model and back as fake tensors, which have shapes and no values.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from ...files import replace_attributes
from ...inference.backends.prefix_cache import shared_prefix
from ..arguments import CHECKPOINTING, NerTrainingArguments
from ..batches import attention
from ..batches.collate import PaddedCollator, PrefixSharedCollator, choose_collator
from ..batches.gpu.layers import fuse_layers
from ..batches.reduced_head import head_over
from ..batches.swiglu import recompute_activation

FLOAT32, BFLOAT16 = 4, 2
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


def largest_batch(lengths: Sequence[int], size: int, epochs: int, *, shuffled: bool) -> list[int]:
    """The places of the rows of the batch with the most tokens: the longest rows, or if they are `shuffled` the largest
    of as many epochs in random order.

    >>> largest_batch([7, 9, 8, 1], 2, 1, shuffled=False)
    [1, 2]
    """
    tokens = torch.tensor(lengths)
    longest = tokens.argsort(descending=True, stable=True)[:size]
    if not shuffled or len(lengths) <= size:
        return longest.tolist()
    draw = torch.Generator().manual_seed(0)
    whole = len(tokens) // size * size
    batches = torch.cat([torch.randperm(len(tokens), generator=draw)[:whole] for _ in range(epochs)]).view(-1, size)
    return batches[tokens[batches].sum(1).argmax()].tolist()


@dataclass(frozen=True)
class Memory:
    """Bytes of one process: an upper estimate, since not all of it is held at the same time.

    `weights` take 4 bytes per parameter (float32 masters), frozen ones on a GPU 2 (bf16); `gradients` 4 and `optimizer`
    8 (Adam's moments) per trained parameter. The gradients count twice with several processes, since the buckets that
    are exchanged hold them too, and with CUDA graphs, which have their own. `activations` is what the forward and
    backward pass of the largest batch adds to these at its peak, counted tensor by tensor on fake tensors: what
    autograd keeps, the logits, the cast copies of the weights under bf16. `graphs` is the same once more: the memory of
    recorded passes stays reserved, and a pass of a new shape needs its own. `evaluation` is that of `evaluation_bytes`.
    Not counted: CUDA context and fragmentation (about 1 GB), libraries (about 0.7 GB of RAM).
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    graphs: int = 0
    evaluation: int = 0

    @property
    def of_batch(self) -> int:
        """What a smaller batch would need less of."""
        return self.activations + self.graphs

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.of_batch + self.evaluation

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
    fused: bool = False,
    graphs: bool = False,
    checkpointing: bool = False,
    processes: int = 1,
    tokens: torch.Tensor | None = None,
) -> Memory:
    """The memory that one process needs for a step on `rows`, the largest batch. Consumes `model`, an outline.

    `tokens` are those of all training rows: the loss is computed over them if the head is frozen (`head_over`). `fused`
    is for a GPU in bf16 (`fuse_layers`, one kernel for attention), `graphs` for one that replays its passes.
    """
    if isinstance(collator, PrefixSharedCollator):
        collator = choose_collator(model, 0)  # sets the default attention; other masks are made from values
        if fused and isinstance(collator, PrefixSharedCollator):
            collator = replace(collator, varlen=True, padded=graphs)
    batch = collator(rows)
    recompute_activation(model)
    if fused:
        fuse_layers(model, torch.bfloat16)
    if checkpointing:
        getattr(model, f"{CHECKPOINTING}_enable")({"use_reentrant": False})
        model.enable_input_require_grads()
    model = _to_fake(model, mode := FakeTensorMode(allow_non_fake_inputs=True)).train()
    # The fakes are on the CPU, where no kernel would be found.
    attention_runs = replace_attributes(attention, runs_on=lambda *_: True) if fused else nullcontext()
    with nullcontext() if tokens is None else head_over(tokens, model), attention_runs, mode:
        forward, peak = pass_bytes(model, {key: mode.from_tensor(value) for key, value in batch.items()}, bf16=bf16)
    weights = sum(weight.untyped_storage().nbytes() for weight in model.parameters())  # here frozen ones may be in bf16
    _, trained = parameters(model)
    gradients = FLOAT32 * trained
    activations = max(0, peak - gradients)
    copies = 2 if graphs or processes > 1 else 1
    recorded = max(forward, activations) if graphs else 0
    return Memory(weights, copies * gradients, ADAM * trained, activations, recorded)


def evaluation_bytes(model: PreTrainedModel, rows: Sequence[dict[str, Any]], max_new_tokens: int) -> int:
    """Bytes that an evaluation on a GPU adds, with `rows` its longest batch.

    A copy of the weights in bf16, the logits of the loss (in bf16, in float32 and as log-probabilities), and for each
    place that is written in, 64 at least, the keys and values of a row and what judges its next token.
    """
    config = model.config.get_text_config()
    every, _ = parameters(model)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * BFLOAT16 * config.num_hidden_layers * config.num_key_value_heads * size
    longest = max((len(row["prompt_ids"]) for row in rows), default=0) + max_new_tokens
    logits = (BFLOAT16 + 2 * FLOAT32) * sum(len(row["answer_ids"]) for row in rows)
    places = max(64, len(rows))
    return BFLOAT16 * every + config.vocab_size * (logits + 4 * FLOAT32 * places) + places * longest * token


def _to_fake(model: PreTrainedModel, mode: FakeTensorMode) -> PreTrainedModel:
    """A copy of the outline with fake tensors on the CPU: autocast does nothing on the meta device."""
    with mode:
        fakes: dict[int, Any] = {id(old): torch.empty(old.shape, dtype=old.dtype) for old in model.buffers()}
        for old in model.parameters():
            fakes[id(old)] = torch.nn.Parameter(torch.empty(old.shape, dtype=old.dtype), old.requires_grad)
        return copy.deepcopy(model, fakes)


def pass_bytes(model: torch.nn.Module, batch: dict[str, torch.Tensor], *, bf16: bool) -> tuple[int, int]:
    """The most bytes that a forward pass of `model` on `batch` holds beside its parameters, and those of a whole pass
    with its gradients."""
    live = LiveBytes(model)
    with live:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(**batch).loss
        forward = live.most
        loss.backward()
    return forward, live.most


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of what operators allocate, for as long as it is held: `now`, and at `most`.

    What lies in the parameters of `model` is not counted, and neither is what a kernel needs while it runs.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known = {weight.untyped_storage()._cdata for weight in model.parameters()}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self.known:
            return
        self.known.add(place)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, place, size).atexit = False

    def _free(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.now -= size


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
    limit = args.save_total_limit  # 0 deletes nothing, like None
    return written if not limit else min(written, max(limit, 1 + args.load_best_model_at_end) + 1)


def format_size(number: int) -> str:
    """
    >>> format_size(1_976_131_072), format_size(20 << 20)
    ('1.8 GiB', '20 MiB')
    """
    return f"{number / 2**30:.1f} GiB" if number >= 2**29 else f"{number / 2**20:.0f} MiB"
