"""The result of a check: ok, a warning, a failure or skipped, with its remedy; and YAML that tells a repeated key.

In: what was found. Out: a line for the terminal, or what a training does about it. Does not know what is checked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import yaml

from ..columns import printable
from ..entities import NerError

log = logging.getLogger(__name__)

Level = Literal["ok", "warn", "fail", "skip"]
"""A `fail` makes the training worthless or impossible, a `warn` does not; what could not be checked is a `skip`."""

NAME_WIDTH = 17
"""Width of the column of names, more than the longest has."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor. `found` says what and where, `remedy` what to do about it.

    >>> print(Finding("warn", "2 of 9 answers are too long", "raise max_new_tokens", name="answers"))
    warn  answers            2 of 9 answers are too long; raise max_new_tokens
    """

    level: Level
    found: str
    remedy: str = ""
    name: str = ""

    @property
    def message(self) -> str:
        return f"{self.found}; {self.remedy}" if self.remedy else self.found

    def __str__(self) -> str:
        below = "\n" + " " * (NAME_WIDTH + 8)
        return f"{self.level:<4}  {self.name:<{NAME_WIDTH}}  {below.join(printable(self.message).split(chr(10)))}"


ok = partial(Finding, "ok")
warn = partial(Finding, "warn")
fail = partial(Finding, "fail")


class FaultsError(NerError):
    """Several faults at once, each with its own fields; `place` is the file that has them, if it is one.

    >>> print(FaultsError([NerError("unknown", place="sead", remedy="did you mean seed?")], "recipe.yaml"))
    recipe.yaml has 1 fault
      sead: unknown; did you mean seed?
    """

    def __init__(self, faults: Sequence[NerError], place: Any = None) -> None:
        super().__init__("faults", place=place)
        self.faults = list(faults)

    def __reduce__(self) -> Any:
        return FaultsError, (self.faults, self.place)

    def __str__(self) -> str:
        head = f"{self.place} has {len(self.faults)} fault{'s'[: len(self.faults) > 1]}"
        lines = [head] * (self.place is not None) + [str(fault) for fault in self.faults]
        return "\n  ".join(lines).encode("utf-8", "backslashreplace").decode()  # an argument need not be UTF-8


def raise_or_warn(findings: Iterable[Finding]) -> None:
    """Log each warning, then raise one `FaultsError` with all failures, if there are any."""
    failures = []
    for finding in findings:
        if finding.level == "fail":
            failures.append(NerError(finding.found, remedy=finding.remedy or None))
        elif finding.level == "warn":
            log.warning("%s.", finding.message)
    if failures:
        raise FaultsError(failures)


NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises: its own errors, and Python's for numbers, dates and nesting beyond its limits."""


class UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a repeated key, where the plain loader would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", key_node.start_mark)
        return super().construct_mapping(node, deep)
