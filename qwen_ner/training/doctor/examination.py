"""All checks of a training, in the order of their lines.

In: a `TrainingPlan`. Out: a `Finding` per check. The checks are in checks.py and machine.py. Does not know terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ...entities import NerError
from ..finding import Finding, fail
from . import checks, machine

if TYPE_CHECKING:
    from ..plan import TrainingPlan

Check = Callable[["TrainingPlan"], Finding]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("data", checks.check_data),
    ("labels", checks.check_labels),
    ("no entity", checks.check_empty),
    ("leakage", checks.check_leakage("validation")),
    ("leakage", checks.check_leakage("dev")),
    ("model", machine.check_model),
    ("tokenizer", checks.check_tokenizer),
    ("pad token", checks.check_pad),
    ("rows", checks.check_rows),
    ("end token", checks.check_end),
    ("prompt", checks.check_prompt),
    ("room", checks.check_room),
    ("answers", checks.check_answers),
    ("generation_config", checks.check_generation),
    ("batches", machine.check_batches),
    ("steps", machine.check_steps),
    ("memory", machine.check_memory),
    ("disk", machine.check_disk),
    ("driver", machine.check_driver),
    ("processes", machine.check_processes),
    ("trackers", machine.check_trackers),
    ("hub", machine.check_hub),
)

_OF_TRAINING = ("rows", "pad token", "end token", "prompt", "room", "answers")

TRAINING_CHECKS = tuple(check for name, check in CHECKS if name in _OF_TRAINING)
"""What a training checks of itself before its first step: what takes seconds and would waste hours."""


def examine(plan: TrainingPlan) -> Iterator[Finding]:
    """A finding for each of `CHECKS`, as it is made. A missing part is reported once, by the first check."""
    reported: dict[NerError, str] = {}
    for name, check in CHECKS:
        try:
            finding = check(plan)
        except NerError as error:
            if error in reported:
                finding = fail(f"not checked, because {reported[error]} failed", "see above")
            else:
                reported[error] = name
                finding = fail(str(error))
        yield replace(finding, name=name)
