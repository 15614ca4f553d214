"""The model that an evaluation reads with: on a GPU, or where weights are sharded, a plain copy for inference.

In: the Trainer's model. Out: for as long as it is needed, a copy on every rank with all weights (FSDP2 and DeepSpeed
ZeRO-3 shard them), its adapter merged, in the type that `Extractor` loads it in: what is scored is what ships. Knows
nothing of data.

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
from ...inference.backends.torch import TorchBackend, default_dtype

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

    names, memo = dict(empty.named_parameters()), dict[int, Any]()
    for name, parameter in fsdp2_canonicalize_names(dict(sharded.named_parameters())).items():
        whole = _gathered(parameter).to(device=device, dtype=dtype or parameter.dtype)
        memo[id(names[name])] = torch.nn.Parameter(whole, requires_grad=False)
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


def merge(model: Any, dtype: torch.dtype) -> Any:
    """`model` with its adapter merged, in `dtype`. Each layer is merged in float32, as `load_weights` merges."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in [module for module in model.modules() if isinstance(module, BaseTunerLayer)]:
        weight = layer.get_base_layer().weight
        weight.data = weight.data.float()
        layer.merge()
        weight.data = weight.data.to(dtype)
    return model.unload().to(dtype)


class WholeModel(TrainerCallback):
    """The model to evaluate with, and its backend, from the first call of `get` to the end of the evaluation."""

    def __init__(self, trainer: NerTrainer) -> None:
        args, self.trainer = trainer.args, trainer
        self._outline: Any = None
        self._copy: PreTrainedModel | None = None
        self._backend: TorchBackend | None = None
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and not trainer.is_fsdp_enabled:
            what = "accelerate shards (FSDP) on GPUs only: on the CPU every process would hold the whole model"
            raise NerError(what, remedy="launch with accelerate_configs/cpu_2proc.yaml")
        plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
        if plugin is not None and args.nonfinite_gradients == "skip":
            what = "DeepSpeed takes its step before the gradient can be inspected, so no step can be skipped"
            remedy = "set it to stop, or launch with FSDP2 (accelerate_configs/fsdp2_4gpu.yaml)"
            raise NerError(what, place="nonfinite_gradients", remedy=remedy)
        sharded = trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
        if sharded or args.device.type == "cuda":
            self.copy_first()

    def copy_first(self) -> None:
        """Have `get` copy the model as it is built now; its weights may change and its layers be patched."""
        self._outline = outline(self.trainer.model)

    def get(self) -> Any:
        """All ranks must call it, once in an evaluation at least; afterwards they may go different ways."""
        trainer = self.trainer
        if self._outline is None:
            return trainer.accelerator.unwrap_model(trainer.model)
        if self._copy is None:
            dtype, adapted = getattr(torch, default_dtype(trainer.args.device.type)), hasattr(self._outline, "unload")
            whole = fill(self._outline, trainer.model, trainer.args.device, None if adapted else dtype)
            self._copy = (merge(whole, dtype) if adapted else whole).requires_grad_(False)
        return self._copy

    def backend(self) -> TorchBackend:
        """What writes with `get()`. It keeps the prompts' common prefix, and on a GPU graphs, for one evaluation."""
        if self._backend is None:
            trainer = self.trainer
            ends, pad = trainer.ner_config.end_token_ids, trainer.processing_class.pad_token_id
            self._backend = TorchBackend(self.get(), ends, pad, trainer.batch_tokens)
        return self._backend

    def free(self) -> None:
        """Forget the copy and the backend, which the next training step makes outdated."""
        self._copy = self._backend = None

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.free()

    on_predict = on_evaluate
