"""One format of annotated data to another: `qwen-ner convert IN OUT`.

In: a data set of any format, the name of a file to write. Out: that file, whole or not at all, and a `Conversion` that
counts and lists what could not be carried over. Rows are read and written one at a time, except Label Studio's JSON,
which is no line format. Knows nothing of model tokens or recipes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..entities import Example, NerError
from ..files import beside
from .datasets import open_dataset
from .formats.errors import CHANGES, NESTED, count
from .formats.registry import Source, target_name, writers

log = logging.getLogger(__name__)

SHOWN = 10
"""How many places are listed for each kind of loss; all are counted."""


@dataclass
class Losses:
    """What is not carried over: how often, and where the first times."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, where: str) -> None:
        self.counts[what] += 1
        shown = self.places.setdefault(what, [])
        if len(shown) < SHOWN:
            shown.append(where)

    def __str__(self) -> str:
        """One line per kind of loss, followed by its places.

        >>> losses = Losses()
        >>> losses.note("scores", "a.jsonl:3")
        >>> print(losses)
        scores: 1
          a.jsonl:3
        """
        lines: list[str] = []
        for what, number in self.counts.items():
            lines += [f"{what}: {number:,}", *(f"  {place}" for place in self.places[what])]
            if number > SHOWN:
                lines.append(f"  … and {number - SHOWN:,} more")
        return "\n".join(lines)


class Conversion:
    """The rows of a source, and what of them is not in the target. They are read and counted anew each time."""

    def __init__(self, source: Source, repair: bool) -> None:
        self.source, self.repair = source, repair
        self.rows, self.entities, self.losses = 0, 0, Losses()

    def note(self, what: str, where: str) -> None:
        self.losses.note(what, where)
        self.entities -= what == NESTED

    def __iter__(self) -> Iterator[Example]:
        self.rows, self.entities, self.losses = 0, 0, Losses()
        for example in self.source.examples(repair=self.repair, note=self.note):
            self.rows += 1
            self.entities += len(example.entities)
            yield example


def convert(
    source: str,
    target: str | Path,
    *,
    to: str | None = None,
    split: str | None = None,
    lossy: bool = False,
    repair: bool = False,
) -> Conversion:
    """Read `source` (as `datasets.read_dataset` does, `split` of it) and write it to the file `target`.

    The content tells the format of the source; `to` (a name of `registry.writers`) or its name that of the target; both
    are logged. Raises `NerError`, and keeps an old `target`, if the source has a fault, or if the target could not hold
    all of its entities and texts. `lossy` then writes the rest; `repair` reads tags that are out of order. What else is
    not carried over (ids, scores, other keys and columns) is counted, listed and logged.
    """
    path = Path(target).expanduser()
    name = target_name(path) if to is None else to
    if name is None or name not in writers():
        what = "the name of the file does not tell its format" if to is None else "unknown format"
        raise NerError(what, value=to, place=path, remedy=f"give --to one of {', '.join(writers())}")
    if path.is_dir() or (path.exists() and path.resolve() == Path(source).expanduser().resolve()):
        fault = "is a folder" if path.is_dir() else "is the source itself"
        raise NerError(fault, place=path, remedy="name another file to write")
    read = open_dataset(source, split)
    log.info("%s is read as %s", source, read)
    done = Conversion(read, repair)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as part:
            writers()[name](part, done, done.note)
            if not lossy and any(what in done.losses.counts for what in CHANGES):
                fault = f"{name} cannot hold all of {source}, so nothing is written"
                remedy = f"give --lossy to leave this out, or choose jsonl, which holds everything:\n{done.losses}"
                raise NerError(fault, place=path, remedy=remedy)
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error})"
        raise NerError(fault, place=path, remedy="choose another place") from error
    except UnicodeEncodeError as error:
        raise NerError(f"cannot be written ({error})", place=path, remedy="correct the text") from error
    if done.losses.counts:
        log.warning("Not in %s as it is in %s:\n%s", path, source, done.losses)
    log.info("%s is written as %s: %s, %s", path, name, count(done.rows, "row"), f"{done.entities:,} entities")
    return done
