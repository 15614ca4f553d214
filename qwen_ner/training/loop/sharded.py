"""A model whose weights are sharded over the ranks (FSDP2, DeepSpeed ZeRO-3), gathered whole for an evaluation.

In: the Trainer's sharded model. Out: a plain copy of it on every rank for as long as it is needed. Knows nothing of
data and of how text is generated.

Every layer of a sharded model synchronizes all ranks. Ranks write different numbers of tokens, so one would wait
forever for another that is done. Running empty forward passes instead (`synced_gpus`) makes every rank as slow as the
slowest and sends all weights around once per token; here they are sent once per evaluation. The price is memory for the
whole model in the type that it computes in, at a time when little else needs memory.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, TrainerCallback

from ...entities import NerError

if TYPE_CHECKING:
    from .trainer import NerTrainer

COMPUTE = {"bf16": torch.bfloat16, "fp16": torch.float16}


def outline(model: torch.nn.Module) -> Any:
    """A copy of `model` with its parameters on the meta device, with the same names and ties; it takes no memory.

    >>> tied = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    >>> tied[1].weight = tied[0].weight
    >>> copied = outline(tied)
    >>> copied[0].weight.is_meta, copied[1].weight is copied[0].weight
    (True, True)
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 may have sharded it when it was loaded
        empty = torch.empty(shape, dtype=parameter.dtype, device="meta")
        memo[id(parameter)] = torch.nn.Parameter(empty, requires_grad=False)
    return copy.deepcopy(model, memo)


def fill(empty: Any, sharded: torch.nn.Module, device: torch.device, dtype: torch.dtype | None) -> Any:
    """A copy of the outline `empty` with all weights of `sharded`, on `device`, in evaluation mode.

    Weights are cast to `dtype` (None: kept as they are). All ranks must call it: they exchange weights in model order.
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


class WholeModel(TrainerCallback):
    """The model with all of its weights on this rank, from the first call of `get` to the end of the evaluation."""

    def __init__(self, trainer: NerTrainer) -> None:
        args, self.trainer = trainer.args, trainer
        self._outline: Any = None
        self._copy: PreTrainedModel | None = None
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and not trainer.is_fsdp_enabled:
            raise NerError(
                "FSDP was requested, but accelerate shards on GPUs only: on the CPU every process would silently hold "
                "the whole model",
                remedy="launch with accelerate_configs/cpu_2proc.yaml",
            )
        plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
        if plugin is not None and getattr(args, "nonfinite_gradients", "stop") == "skip":
            raise NerError(
                "DeepSpeed takes its step before the gradient can be inspected, so no step can be skipped",
                place="nonfinite_gradients",
                remedy="set it to stop, or launch with FSDP2 (accelerate_configs/fsdp2_4gpu.yaml)",
            )
        if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
            self._outline = outline(trainer.model)

    def get(self) -> Any:
        """All ranks must call it, once in an evaluation at least; afterwards they may go different ways."""
        trainer = self.trainer
        if self._outline is None:
            return trainer.accelerator.unwrap_model(trainer.model)
        if self._copy is None:
            dtype = COMPUTE.get(trainer.accelerator.mixed_precision)
            self._copy = fill(self._outline, trainer.model, trainer.args.device, dtype)
        return self._copy

    def free(self) -> None:
        """Forget the copy, whose weights the next training step makes outdated."""
        self._copy = None

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.free()

    def on_predict(self, *args: Any, **kwargs: Any) -> None:
        self.free()
