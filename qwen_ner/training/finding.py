"""What a check has to say: well, doubtful or wrong, with its remedy.

In: words. Out: one line each, or what a training does about them. Knows nothing of what is checked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..entities import NerError

log = logging.getLogger(__name__)

Level = Literal["ok", "warn", "fail"]

NAME_WIDTH = 17
"""Of the column of names: the longest of the doctor's is "generation_config"."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor. `found` is value and place, `remedy` what to do about it.

    >>> print(Finding("warn", "answers", "2 of 9 answers are too long", "raise max_new_tokens"))
    warn  answers            2 of 9 answers are too long; raise max_new_tokens
    """

    level: Level
    name: str
    found: str
    remedy: str = ""

    @property
    def message(self) -> str:
        return f"{self.found}; {self.remedy}" if self.remedy else self.found

    def __str__(self) -> str:
        below = "\n" + " " * (NAME_WIDTH + 8)
        return f"{self.level:<4}  {self.name:<{NAME_WIDTH}}  {below.join(self.message.split(chr(10)))}"


def heed(findings: Iterable[Finding]) -> None:
    """What a training does about its own checks: nothing where all is well, a log line for each doubt.

    Raises `NerError` with all that is wrong, if anything is.
    """
    wrong = []
    for finding in findings:
        if finding.level == "fail":
            wrong.append(finding.message)
        elif finding.level == "warn":
            log.warning("%s.", finding.message)
    if wrong:
        raise NerError("\n  ".join(wrong))


def listed(items: Iterable[str], shown: int = 5) -> str:
    """The first of `items`, and how many more there are.

    >>> listed(["a", "b", "c"], shown=2)
    'a, b and 1 more'
    """
    every = list(items)
    more = f" and {len(every) - shown:,} more" if len(every) > shown else ""
    return ", ".join(every[:shown]) + more
