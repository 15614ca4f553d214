"""Where in a text the surfaces stand that a model wrote, or an annotation names.

In: a text, (label, surface) pairs. Out: entities with offsets. Knows nothing of what a model writes them in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from unicodedata import is_normalized

from .composed import composed, nfc
from .entities import Entity, in_order


def ground(text: str, surfaces: Iterable[tuple[str, str]]) -> tuple[Entity, ...]:
    """Turn (label, surface) pairs into entities: every non-overlapping occurrence, longest surface first.

    Compares characters, without normalization. A surface under several labels gets its places under each. A surface
    that occurs only inside longer ones (北京 in 北京大学) keeps those places, so that every surface in the text gets an
    offset. A surface that is not in the text gets none. Where a surface has several places, each is `ambiguous`, since
    the target does not say which is meant. Entities are in text order.

    >>> [(e.text, e.span) for e in ground("北京大学在北京", [("address", "北京"), ("organization", "北京大学")])]
    [('北京大学', (0, 4)), ('北京', (5, 7))]
    """
    labels: dict[str, list[str]] = {}
    for label, surface in dict.fromkeys(surfaces):
        if surface:
            labels.setdefault(surface, []).append(label)
    taken = bytearray(len(text))
    entities: list[Entity] = []
    for surface in sorted(labels, key=len, reverse=True):
        size = len(surface)
        free: list[int] = []
        nested: list[int] = []
        start = text.find(surface)
        while start >= 0:
            inside = any(taken[start : start + size])
            (nested if inside else free).append(start)
            # The next occurrence may not overlap a free one, but may begin one character after a blocked one.
            start = text.find(surface, start + (1 if inside else size))
        places = free or nested
        for start in places:
            taken[start : start + size] = b"\x01" * size
            entities.extend(
                Entity(label, surface, start, start + size, ambiguous=len(places) > 1) for label in labels[surface]
            )
    return in_order(entities)


def ground_written(text: str, surfaces: Iterable[tuple[str, str]]) -> tuple[Entity, ...]:
    r"""`ground` for what a model wrote: if `text` is not in NFC, surfaces are looked for in its NFC.

    Offsets and surfaces are those of `text`; an entity that ends inside of a composed character gets the whole of it.

    >>> [e.span for e in ground_written("在Cafe\N{COMBINING ACUTE ACCENT}上班", [("scene", "Café")])]
    [(1, 6)]
    """
    if is_normalized("NFC", text):
        return ground(text, surfaces)
    whole = composed(text)
    found = ground(whole.text, ((label, nfc(surface)) for label, surface in surfaces))
    spans = ((e, *whole.place_of(*e.span)) for e in found)
    return in_order({replace(e, text=text[start:end], start=start, end=end) for e, start, end in spans})
