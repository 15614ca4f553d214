"""Find surfaces in texts.

In: surfaces and texts. Out: places, as half-open offsets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MARKS = dict(zip("《〈“‘（(【[「『\"'", "》〉”’）)】]」』\"'", strict=True))
"""Opening brackets and quotes, each with its closing half."""


class Surfaces:
    """A set of surfaces to find in texts, in time that grows with the text and not with the set.

    >>> surfaces = Surfaces(["北京", "北京大学", ""])
    >>> surfaces.within("在北京大学"), surfaces.within("在南京"), list(surfaces.places("在北京大学"))
    (True, False, [(1, 3), (1, 5)])
    """

    def __init__(self, surfaces: Iterable[str]) -> None:
        self._known = {surface for surface in surfaces if surface}
        sizes: dict[str, set[int]] = {}
        for surface in self._known:
            sizes.setdefault(surface[0], set()).add(len(surface))
        self._sizes = {first: sorted(of) for first, of in sizes.items()}

    def places(self, text: str) -> Iterator[tuple[int, int]]:
        """The places of the surfaces in `text`, overlapping ones included."""
        for start, char in enumerate(text):
            for size in self._sizes.get(char, ()):
                end = start + size
                if end <= len(text) and text[start:end] in self._known:
                    yield start, end

    def within(self, text: str) -> bool:
        """Whether `text` contains any of them."""
        return any(True for _ in self.places(text))


def balanced(text: str) -> bool:
    """Whether the brackets and quotes of `text` are paired and nested correctly.

    >>> balanced("《红楼梦》"), balanced("红楼梦》"), balanced('他说"好'), balanced("（《)》")
    (True, False, False, False)
    """
    awaited: list[str] = []
    for char in text:
        if awaited and char == awaited[-1]:
            awaited.pop()
        elif char in MARKS and char != "'":  # an apostrophe has no closing half
            awaited.append(MARKS[char])
        elif char in _CLOSING:
            return False
    return not awaited


_CLOSING = set(MARKS.values()) - set("\"'")
