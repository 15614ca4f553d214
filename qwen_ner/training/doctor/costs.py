"""What a training will cost before it is paid: steps, tokens, memory, disk.

In: numbers of rows, token lengths, a model's config. Out: counts and bytes. Loads no weights and computes no loss: a
model is outlined on torch's meta device, its batch goes through fake tensors that have shapes and no values.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from ...entities import NerError
from ...inference.backends.prefix_cache import shared_prefix
from ...inference.loading import UNLOADABLE
from ..batches.collate import PaddedCollator, PrefixSharedCollator, choose_collator
from ..batches.reduced_head import head_over
from ..model import adapted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOAT32 = 4
ADAM = 2 * FLOAT32
"""Bytes a trained parameter that AdamW keeps: two moments."""

BESIDE_THE_WEIGHTS = 20 << 20
"""Of a checkpoint: tokenizer.json (Qwen's has 11 MB), states of generators and scheduler, logs."""


def outline_model(
    name: str,
    *,
    revision: str | None = None,
    attn_implementation: str | None = None,
    lora: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """The model that `trainer.load_model` loads, without its weights: every parameter on the meta device.

    Needs the model's config.json alone. Raises `NerError` where it cannot be had.
    """
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=attn_implementation
            )
    except UNLOADABLE as error:
        reason = " ".join(str(error).split())
        raise NerError(
            f"{name} cannot be built from its config.json ({reason}); download it once where there is a network "
            f"(hf download {name}), or name its folder with --model_name_or_path"
        ) from error
    with torch.device("meta"):
        return adapted(model, lora)


def parameters(model: PreTrainedModel) -> tuple[int, int]:
    """(all parameters, those that are trained); a tied weight counts once."""
    every = list(model.parameters())
    return sum(p.numel() for p in every), sum(p.numel() for p in every if p.requires_grad)


def steps(
    rows: int, batch: int, accumulation: int, processes: int, epochs: float, max_steps: int, drop_last: bool = False
) -> tuple[int, int]:
    """(optimizer steps of the training, steps of an epoch), as the Trainer counts them.

    >>> steps(rows=10_248, batch=15, accumulation=1, processes=4, epochs=30, max_steps=-1)
    (5130, 171)
    """
    share = rows // processes if drop_last else -(-rows // processes)
    batches = share // batch if drop_last else -(-share // batch)
    an_epoch = max(-(-batches // accumulation), 1)
    return max_steps if max_steps > 0 else -int(-epochs * an_epoch // 1), an_epoch


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the peak of a step: an estimate from above, since not all of it is held at one time.

    `weights` 4 a parameter (float32 masters). `gradients` 4 and `optimizer` 8 (Adam's moments) a trained parameter;
    several processes hold the gradients a second time, in the buckets that are exchanged. `activations` is what
    autograd keeps of the largest batch for the backward pass, counted tensor by tensor on fake tensors: under bf16 with
    the cast copies of the weights, and always with the log-probabilities, 4 bytes a supervised token and word of the
    vocabulary (beside an adapter, of the training rows). `logits` are two more: the logits and their gradient. Not
    counted: the CUDA context and fragmentation (some 1 GB), the libraries (some 0.7 GB of RAM), evaluation (less than a
    step).
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
        """What is left on one of `processes` that share weights (FSDP, ZeRO-3), or gradients and moments (ZeRO-2)."""
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
    """What a step on `rows`, the largest batch, takes in one process. `model` is an outline, and is used up.

    `tokens` are those of all training rows, which the loss is over beside a frozen head (`head.head_over`).
    """
    every, trained = parameters(model)
    config = model.config.get_text_config()
    if isinstance(collator, PrefixSharedCollator):
        collator = choose_collator(model, 0)  # sets the attention; the masks of others are made from values
    batch = collator(rows)
    supervised = batch["shift_labels"].numel()
    _to_fake(model, mode := FakeTensorMode(allow_non_fake_inputs=True))
    model.train()
    with nullcontext(config.vocab_size) if tokens is None else head_over(tokens, model) as width:
        activations = _kept_of(model, batch, bf16, mode)
        if checkpointing:
            of_a_layer = activations // config.num_hidden_layers  # one is computed again at a time
            model.activation_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
            activations = of_a_layer + _kept_of(model, batch, bf16, mode)
    gradients = FLOAT32 * trained * (2 if processes > 1 else 1)
    logits = 2 * FLOAT32 * supervised * width
    return Memory(FLOAT32 * every, gradients, ADAM * trained, activations, logits)


def _to_fake(model: PreTrainedModel, mode: FakeTensorMode) -> None:
    """Put fake tensors on the CPU in place of the outline's, in place: on the meta device autocast does not act."""
    made: dict[int, torch.Tensor] = {}
    with mode:
        for module in model.modules():
            for name, old in list(module._parameters.items()):
                if old is not None:
                    if id(old) not in made:  # a tied weight stays one
                        made[id(old)] = torch.nn.Parameter(torch.empty(old.shape, dtype=old.dtype), old.requires_grad)
                    module._parameters[name] = made[id(old)]
            for name, old in list(module._buffers.items()):
                if old is not None:
                    module._buffers[name] = torch.empty(old.shape, dtype=old.dtype)


def _kept_of(model: PreTrainedModel, batch: dict[str, torch.Tensor], bf16: bool, mode: FakeTensorMode) -> int:
    """`kept_bytes` of a batch as fake tensors."""
    fake = {key: mode.from_tensor(value) for key, value in batch.items()}
    with mode:
        return kept_bytes(model, fake, bf16=bf16)


def kept_bytes(model: torch.nn.Module, batch: dict[str, torch.Tensor], *, bf16: bool) -> int:
    """Bytes that autograd keeps of `model`'s loss on `batch` for the backward pass, its own parameters aside."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = tensor  # held, so that no other storage takes its place in memory
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = model(**batch).loss
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    return total


def computed_tokens(prompts: Sequence[Sequence[int]], lengths: Sequence[int], batch: int) -> int:
    """Tokens that a pass over the rows computes where each batch holds what its prompts begin with once."""
    prefix = len(shared_prefix(prompts)) if len(prompts) > 1 else 0
    return sum(lengths) - prefix * (len(lengths) - -(-len(lengths) // batch))


def checkpoint_bytes(every: int, trained: int, lora: bool, *, with_optimizer: bool = True) -> int:
    """Of one checkpoint on disk: the weights that are saved (with LoRA the adapter's) and Adam's moments."""
    weights = FLOAT32 * (trained if lora else every)
    return weights + ADAM * trained * with_optimizer + BESIDE_THE_WEIGHTS


def kept_checkpoints(
    save_strategy: str, limit: int | None, best: bool, steps: int, steps_of_an_epoch: int, save_steps: float
) -> int:
    """Checkpoints that stand on the disk at one time: a new one is written before the oldest is deleted.

    >>> kept_checkpoints("epoch", 2, True, 5130, 171, 500), kept_checkpoints("epoch", None, True, 5130, 171, 500)
    (3, 30)
    """
    if save_strategy == "no":
        return 0
    every = steps_of_an_epoch if save_strategy in ("epoch", "best") else save_steps
    every = every * steps if every < 1 else every
    written = max(1, -int(-steps // max(every, 1)))
    return written if limit is None else min(written, max(limit, 1 + best) + 1)


def size(number: int) -> str:
    """
    >>> size(1_976_131_072), size(20 << 20)
    ('1.8 GiB', '20 MiB')
    """
    return f"{number / 2**30:.1f} GiB" if number >= 2**29 else f"{number / 2**20:.0f} MiB"
