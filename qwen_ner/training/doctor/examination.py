"""All checks of a training, in the order of their lines.

In: a `TrainingPlan`. Out: a `Finding` per check. The checks are in the modules beside it. Does not know terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

from ...entities import NerError
from ..finding import Finding, fail
from ..plan import TrainingPlan
from . import checks, machine, memory

Check = Callable[[TrainingPlan], Finding]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("data", checks.check_data),
    ("labels", checks.check_labels),
    ("leakage", partial(checks.check_leakage, "validation")),
    ("leakage", partial(checks.check_leakage, "final")),
    ("model", machine.check_model),
    ("tokenizer", checks.check_tokenizer),
    ("pad token", checks.check_pad),
    ("rows", checks.check_rows),
    ("no entity", checks.check_empty),
    ("end token", checks.check_end),
    ("prompt", checks.check_prompt),
    ("room", checks.check_room),
    ("answers", checks.check_answers),
    ("batches", machine.check_batches),
    ("steps", machine.check_steps),
    ("memory", memory.check_memory),
    ("disk", machine.check_disk),
    ("driver", machine.check_driver),
    ("processes", machine.check_processes),
    ("trackers", machine.check_trackers),
    ("hub", machine.check_hub),
)


def as_warning(check: Check, *, only_failures: bool = False) -> Check:
    """`check`, whose failure is a warning: a trial of a few steps may do what the doctor fails. With `only_failures`
    what is a warning in the doctor is left for it to tell."""

    def warned(plan: TrainingPlan) -> Finding:
        finding = check(plan)
        if finding.level == "fail":
            return replace(finding, level="warn")
        return replace(finding, level="ok") if only_failures else finding

    return warned


def warn_of_leaks(part: Literal["validation", "final"]) -> Check:
    """The leakage that fails in the doctor; a single row, as of CLUENER's dev split, is for the doctor to tell."""
    return as_warning(partial(checks.check_leakage, part), only_failures=True)


TRAINING_CHECKS: tuple[Check, ...] = (
    *(check for name, check in CHECKS if name in ("data", "pad token", "end token", "prompt", "room")),
    *(as_warning(check) for name, check in CHECKS if name in ("rows", "answers", "disk")),
    warn_of_leaks("validation"),
    warn_of_leaks("final"),
)
"""What a training checks of itself before its first step: what takes seconds and would waste hours."""


def examine(plan: TrainingPlan) -> Iterator[Finding]:
    """A finding for each of `CHECKS`, as it is made. A missing part fails the first check that needs it alone."""
    reported: list[tuple[NerError, str]] = []
    for name, check in CHECKS:
        try:
            finding = check(plan)
        except NerError as error:
            base = plan.recipe.model.model_name_or_path
            if cause := next((of for known, of in reported if _is_same(known, error, base)), None):
                finding = Finding("skip", f"skipped: needs {cause}, which failed above")
            else:
                reported.append((error, name))
                finding = fail(str(error))
        yield replace(finding, name=name)


def _is_same(one: NerError, other: NerError, base: str) -> bool:
    """Whether both are the same error, or both say that `base` cannot be had: its model, then its tokenizer."""
    return one is other or all(base in (error.value, str(error.place)) for error in (one, other))
