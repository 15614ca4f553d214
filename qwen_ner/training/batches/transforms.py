"""The registry of step transforms: the names that a recipe may give in `step_transforms`."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import TrainingArguments

from ...entities import NerError
from .label_smoothing import LabelSmoothing
from .reduced_head import ReducedHead
from .step import Step, StepTransform

TRANSFORMS: dict[str, type[StepTransform]] = {
    "reduced_head": ReducedHead,
    "label_smoothing": LabelSmoothing,
}

DEFAULT = ("reduced_head",)


def make_step(names: Iterable[str], args: TrainingArguments) -> Step:
    """The training step with the transforms of these names. Raises `NerError` for a name that is not registered."""
    names = list(names)
    if unknown := [name for name in names if name not in TRANSFORMS]:
        raise NerError(
            "unknown step transform",
            value=unknown[0],
            place="step_transforms",
            remedy=f"choose from {', '.join(TRANSFORMS)}",
        )
    if args.label_smoothing_factor and "label_smoothing" not in names:
        raise NerError(
            "has no effect without its step transform",
            place="label_smoothing_factor",
            remedy="add label_smoothing to step_transforms",
        )
    return Step([TRANSFORMS[name](args) for name in names])
