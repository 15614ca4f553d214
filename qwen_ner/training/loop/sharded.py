"""A model whose weights lie in parts on the ranks (FSDP2, DeepSpeed ZeRO-3), and the whole of it for an evaluation.

In: the Trainer's sharded model. Out: a plain copy of it on every rank for as long as it is needed. Knows nothing of
data, and not how is generated.

Each layer of a sharded model is a meeting of all ranks. Ranks write different numbers of tokens, so one would wait for
ever for another that is done. Instead of forward passes for nothing (`synced_gpus`), which make every rank as slow as
the slowest and send all weights around once a token, they are sent once an evaluation. The price is memory for the
whole model in the type that it computes in, while nothing else of an evaluation needs much.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer

from ...entities import NerError

COMPUTE = {"bf16": torch.bfloat16, "fp16": torch.float16}


def outline(model: torch.nn.Module) -> Any:
    """A copy of `model` whose parameters are on the meta device, of the same names and ties; it takes no memory.

    >>> tied = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    >>> tied[1].weight = tied[0].weight
    >>> copied = outline(tied)
    >>> copied[0].weight.is_meta, copied[1].weight is copied[0].weight
    (True, True)
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 may have parted it when it was loaded
        empty = torch.empty(shape, dtype=parameter.dtype, device="meta")
        memo[id(parameter)] = torch.nn.Parameter(empty, requires_grad=False)
    return copy.deepcopy(model, memo)


def filled(empty: Any, sharded: torch.nn.Module, device: torch.device, dtype: torch.dtype | None) -> Any:
    """A copy of the outline `empty` with all weights of `sharded`, on `device`, in evaluation mode.

    Weights become `dtype` (None: as they are). All ranks must call it: they exchange weights, in the model's order.
    """
    from accelerate.utils.fsdp_utils import fsdp2_canonicalize_names

    names = {name: parameter for name, parameter in empty.named_parameters()}
    memo: dict[int, Any] = {}
    for name, parameter in fsdp2_canonicalize_names(dict(sharded.named_parameters())).items():
        whole = _gathered(parameter).to(device=device, dtype=dtype or parameter.dtype)
        memo[id(names.pop(name))] = torch.nn.Parameter(whole, requires_grad=False)
    if names:
        raise RuntimeError(f"the sharded model lacks {sorted(names)}")
    return copy.deepcopy(empty, memo).to(device).eval()


@torch.no_grad()
def _gathered(parameter: torch.nn.Parameter) -> torch.Tensor:
    from torch.distributed.tensor import DTensor

    if hasattr(parameter, "ds_id"):
        import deepspeed  # type: ignore[import-not-found, unused-ignore]

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    if isinstance(parameter, DTensor):
        return parameter.full_tensor().detach()
    return parameter.detach().clone()


class ShardedTrainer(Trainer):
    """Trainer that evaluates a sharded model whole.

    `whole` is the plain model during an evaluation, and None at other times and where weights are not sharded.
    """

    whole: PreTrainedModel | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and not self.is_fsdp_enabled:
            raise NerError(
                "FSDP is asked for, and accelerate shards on GPUs alone: on the CPU each process would hold all "
                "without a word; launch with accelerate_configs/cpu_2proc.yaml"
            )
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        if plugin is not None and getattr(self.args, "nonfinite_gradients", "stop") == "skip":
            raise NerError(
                "nonfinite_gradients: DeepSpeed takes its step before the gradient can be looked at, so none can be "
                "left out; set it to stop, or launch with FSDP2 (accelerate_configs/fsdp2_4gpu.yaml)"
            )
        self._outline: Any = None
        if self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
            self._outline = outline(self.model)

    @contextmanager
    def gathered(self) -> Iterator[PreTrainedModel]:
        """The model with all of its weights on this rank. All ranks must enter; within they may go different ways."""
        if self._outline is None or self.whole is not None:
            yield self.whole or self.accelerator.unwrap_model(self.model)
            return
        dtype = COMPUTE.get(self.accelerator.mixed_precision)
        self.whole = filled(self._outline, self.model, self.args.device, dtype)
        try:
            yield self.whole
        finally:
            self.whole = None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        with self.gathered():
            return super().evaluation_loop(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """A weight that is tied to another is saved once; gathered, it would come as two."""
        if state_dict and self._outline is not None and getattr(self.model.config, "tie_word_embeddings", False):
            tied = set(getattr(self.model, "_tied_weights_keys", None) or ())
            state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}
        super()._save(output_dir, state_dict)
