"""Whether a training fits into the memory of its device.

In: a `TrainingPlan`. Out: a `Finding`. Knows how a training computes on a GPU, and leaves the counting to `costs`.
"""

from __future__ import annotations

from dataclasses import replace

import psutil
import torch

from ...data.tokenize import longest_first
from ..arguments import CHECKPOINTING, emulates_bf16
from ..batches.attention import PREFIX_SHARED
from ..batches.collate import PrefixSharedCollator
from ..batches.gpu.varlen import has_kernel, kernel
from ..batches.reduced_head import tokens_of
from ..batches.transforms import make_step
from ..finding import Finding, fail, ok, warn
from ..model import outline_model
from ..plan import TrainingPlan
from . import costs
from .machine import uses_cpu

HEADROOM = 1.1
"""How much more than the estimate a device should have: for its context, fragmentation, libraries."""


def check_memory(plan: TrainingPlan) -> Finding:
    """The largest batch fits into the memory of the device, and on a GPU an evaluation beside the training."""
    args, launch, given = plan.recipe.training, plan.launch, plan.recipe.model
    rows, shuffled = plan.fitting_rows, args.train_sampling_strategy == "random"
    size, epochs = args.per_device_train_batch_size, max(1, round(args.num_train_epochs))
    largest = [rows[i] for i in costs.largest_batch(list(rows["length"]), size, epochs, shuffled=shuffled)]
    scratch = outline_model(plan.base, revision=given.model_revision, lora=given.lora())  # the estimate consumes it
    evaluation = _evaluation_bytes(plan) if on_gpu(plan) else 0
    try:
        expected = costs.expected_memory(
            *(scratch, largest, plan.collator),
            bf16=_computes_in_bf16(plan),
            fused=_fuses_layers(plan),
            graphs=_replays_passes(plan),
            checkpointing=getattr(args, CHECKPOINTING),
            processes=launch.num_processes,
            tokens=tokens_of(rows) if "reduced_head" in args.step_transforms else None,
        )
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        return warn(f"not estimated ({reason})", "watch the first steps, whose batches may be the largest")
    expected = expected.sharded(launch.num_processes, weights=launch.shards_weights, states=launch.shards_states)
    expected = replace(expected, evaluation=evaluation)
    if on_gpu(plan):
        return compare_memory(expected, torch.cuda.mem_get_info(0)[0] if torch.cuda.is_available() else None, "GPU")
    return compare_memory(expected, psutil.virtual_memory().available // launch.processes_here, "CPU")


def on_gpu(plan: TrainingPlan) -> bool:
    """Whether the training is for a GPU: one that is here, or one that the recipe or the launch asks for."""
    args, launch = plan.recipe.training, plan.launch
    asked = args.use_cpu or launch.num_processes > 1 or launch.mixed_precision != "no"
    return not uses_cpu(plan) and (torch.cuda.is_available() or (asked and not launch.use_cpu))


def _computes_in_bf16(plan: TrainingPlan) -> bool:
    args, launch = plan.recipe.training, plan.launch
    emulated = emulates_bf16(use_cpu=uses_cpu(plan))
    return args.bf16 or (not args.fp16 and launch.mixed_precision == "bf16" and not emulated)


def _fuses_layers(plan: TrainingPlan) -> bool:
    """Whether the Trainer replaces layers for a GPU, whose attention is one kernel; a GPU that is not here has it."""
    has_attention = has_kernel() if torch.cuda.is_available() else kernel() is not None
    return on_gpu(plan) and _computes_in_bf16(plan) and not plan.launch.shards_states and has_attention


def _replays_passes(plan: TrainingPlan) -> bool:
    """Whether the Trainer records CUDA graphs, as far as a recipe tells (`loop.trainer.obstacle`)."""
    args, alone = plan.recipe.training, plan.launch.num_processes == 1
    packed = isinstance(plan.collator, PrefixSharedCollator) and plan.collator.attention == PREFIX_SHARED
    replayable = make_step(args.step_transforms, args).replayable
    return alone and packed and replayable and not getattr(args, CHECKPOINTING) and _fuses_layers(plan)


def _evaluation_bytes(plan: TrainingPlan) -> int:
    args, rows = plan.recipe.training, longest_first(plan.gold_rows)
    longest = [rows[i] for i in range(min(args.per_device_eval_batch_size, len(rows)))]
    return costs.evaluation_bytes(plan.model, longest, plan.max_new_tokens)


def compare_memory(expected: costs.Memory, available: int | None, device: str) -> Finding:
    """The estimated peak of a training against what the device has; `available` is None if the device is not here."""
    parts = " + ".join(f"{name} {costs.format_size(size)}" for name, size in vars(expected).items() if size)
    needs = f"about {costs.format_size(expected.total)} per process ({parts})"
    if available is None:
        return ok(f"{needs}; no {device} here to compare with")
    found = f"{needs}, of {costs.format_size(available)} free on the {device}"
    if expected.total * HEADROOM <= available:
        return ok(found)
    # Where graphs do not fit, passes are launched kernel by kernel.
    too_much = expected.total - expected.graphs > available
    return (fail if too_much else warn)(found, _memory_remedy(expected, available, device))


def _memory_remedy(expected: costs.Memory, available: int, device: str) -> str:
    """What would help: a smaller batch only if all but the batch fits."""
    if (expected.total - expected.of_batch) * HEADROOM <= available:
        smaller = "halve per_device_train_batch_size and double gradient_accumulation_steps"
        return f"{smaller}, or set {CHECKPOINTING}: true"
    adapter = "train an adapter (lora_r: 16), " if expected.optimizer > expected.weights else ""
    return f"{adapter}shard over several {device}s, or use a smaller model: no smaller batch fits"
