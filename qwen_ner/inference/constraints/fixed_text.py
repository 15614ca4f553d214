"""The fixed text of answers: braces, keys, brackets and quotes, which all texts share.

In: label names. Out: which fixed strings may follow at a place of an answer, and where they lead. Knows nothing of
texts, surfaces or tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple


class Place(NamedTuple):
    """Between two pieces of an answer; `labels` are the numbers of those written so far.

    `kind` is "start", "surface" (before or in one), "quote" (behind its closing quote), "last" (the same, but nothing
    of the text is left that the list has not), "list" (behind a label's list) or "done".
    """

    kind: str
    labels: tuple[int, ...] = ()


class FixedText:
    """What may stand between the surfaces of answers with these labels.

    Kept for all texts with the answers' own steps, of which there are few: what `follow` found is looked up.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.keys = [json.dumps(label, ensure_ascii=False).encode() + b':["' for label in labels]
        self.longest = 1 + max(map(len, self.keys), default=0)
        self.options = lru_cache(maxsize=2**12)(self._options)
        self.follow = lru_cache(maxsize=2**15)(self._follow)

    def _options(self, place: Place, written: bytes) -> tuple[tuple[bytes, Place], ...]:
        """The strings one of which must follow where `written` stands behind `place`, and where each leads."""
        kind, labels = place
        keys = [(key, Place("surface", (*labels, n))) for n, key in enumerate(self.keys) if n not in labels]
        options = {
            "start": [(b"{}", Place("done")), *((b"{" + key, then) for key, then in keys)],
            "list": [(b"}", Place("done")), *((b"," + key, then) for key, then in keys)],
            "quote": [(b"]", Place("list", labels)), (b',"', Place("surface", labels))],
            "last": [(b"]", Place("list", labels))],
        }.get(kind, [])
        return tuple((option[len(written) :], then) for option, then in options if option.startswith(written))

    def _follow(self, place: Place, written: bytes, piece: bytes) -> tuple[Place, bytes, bytes] | None:
        """Where `piece` leads from what is `written` behind `place`, up to a surface or the end of the answer.

        The place that was passed last, what is written behind it, and the rest of `piece`. None if it may not come.
        """
        while piece and place.kind != "surface":
            for option, then in self._options(place, written):
                if piece.startswith(option):
                    place, written, piece = then, b"", piece[len(option) :]
                    break
                if option.startswith(piece):
                    return place, written + piece, b""
            else:
                return None
        return place, written, piece
