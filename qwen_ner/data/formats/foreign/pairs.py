"""Cells that name the label and the surfaces of each entity: 景点:故宫、天坛；美食:烤鸭.

In: a cell and its text. Out: the labels and surfaces that it names, and the column of such cells.
"""

from __future__ import annotations

import re

from .headers import COMMAS, Header, is_none, parts_of, words

PAIR = re.compile(r"([^:：,，]+)[:：]\s*(.+)")


def pairs(cell: str, text: str) -> list[tuple[str, str]]:
    """The label and surface of each entity in a cell. A surface without a label has that of the one before, if any.

    >>> pairs("景点:故宫、天坛；美食：烤鸭", "去了故宫和天坛，烤鸭不错"), pairs("10:30", "10:30开车")
    ([('景点', '故宫'), ('景点', '天坛'), ('美食', '烤鸭')], [('', '10:30')])
    """
    found: list[tuple[str, str]] = []
    label = ""
    for part in parts_of(cell):
        for one in [part] if pair_of(part, text)[1] in text else words(COMMAS, part):
            named, surface = pair_of(one, text)
            label = named or label
            found.append((label, surface))
    return found


def pair_of(part: str, text: str) -> tuple[str, str]:
    """The label and surface that a colon separates; no label if there is no colon, or the text has it all."""
    pair = None if part in text else PAIR.fullmatch(part)
    return (pair[1].strip(), pair[2].strip()) if pair else ("", part)


def column_of_pairs(header: Header, text: int) -> int | None:
    """The first column most of whose cells name labels and surfaces of their texts."""
    for at in header.others(text):
        good = filled = 0
        for _, cells, above in header.with_texts(text):
            if (cell := cells[at].strip()) and not is_none(cell, above):
                named = pairs(cell, above)
                filled += 1
                good += bool(named) and all(label and surface in above for label, surface in named)
        if 2 * good > filled:
            return at
    return None
