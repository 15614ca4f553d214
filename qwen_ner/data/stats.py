"""Rows that stand in two splits at once.

In: `Example`s. Out: pairs of them. Knows nothing of files, tokens and models.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from ..entities import Example


def leaks(train: Sequence[Example], held_out: Sequence[Example]) -> list[tuple[Example, Example]]:
    """Pairs (train, held out) of rows whose texts are equal after NFKC, lower-casing and without punctuation and space.

    >>> [(a.id, b.id) for a, b in leaks([Example("1", "三星，北京。")], [Example("7", "三星 北京！")])]
    [('1', '7')]
    """
    known: dict[str, Example] = {}
    for example in train:
        known.setdefault(_bare(example.text), example)
    return [(known[bare], example) for example in held_out if (bare := _bare(example.text)) in known]


def _bare(text: str) -> str:
    kept = (c for c in unicodedata.normalize("NFKC", text).lower() if unicodedata.category(c)[0] not in "PZC")
    return "".join(kept)
