"""The registry of step transforms: the names that a recipe may give in `step_transforms`."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import TrainingArguments

from ...entities import NerError
from .label_smoothing import LabelSmoothing
from .reduced_head import ReducedHead
from .step import Step, StepTransform

TRANSFORMS: dict[str, type[StepTransform]] = {
    "reduced_head": ReducedHead,
    "label_smoothing": LabelSmoothing,
}


def transform_faults(names: Sequence[str], label_smoothing_factor: float | None) -> list[NerError]:
    """Names that are not registered, and a smoothing that none of them does; `place` is the key."""
    remedy = f"choose from {', '.join(TRANSFORMS)}"
    unknown = [name for name in names if name not in TRANSFORMS]
    faults = [
        NerError("unknown step transform", value=name, place="step_transforms", remedy=remedy) for name in unknown
    ]
    if label_smoothing_factor and "label_smoothing" not in names:
        what, remedy = "has no effect without its step transform", "add label_smoothing to step_transforms"
        faults.append(NerError(what, place="label_smoothing_factor", remedy=remedy))
    return faults


def make_step(names: Sequence[str], args: TrainingArguments) -> Step:
    """The training step with the transforms of these names. Raises the first of their `transform_faults`."""
    for fault in transform_faults(names, args.label_smoothing_factor):
        raise fault
    return Step([TRANSFORMS[name](args) for name in names])
