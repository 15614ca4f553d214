"""Counts what an inline target could know better than JSON: which of several places of a surface is meant."""

from __future__ import annotations

from collections.abc import Sequence

from qwen_ner.codec import Decoded
from qwen_ner.entities import Example


def repeated(gold: Sequence[Example], predicted: Sequence[Decoded]) -> dict[str, int]:
    """The places of surfaces that stand in their text more than once, under a label that both sides give them: those
    of `gold`, and those that were `missed` or are `spurious`. All of these are errors of the offsets alone."""
    total = {"gold": 0, "missed": 0, "spurious": 0}
    for example, decoded in zip(gold, predicted, strict=True):
        both = {pair for pair in set(example.surfaces) & set(decoded.surfaces) if example.text.count(pair[1]) > 1}
        true, found = (
            {(e.label, *e.span) for e in side.entities if (e.label, e.text) in both} for side in (example, decoded)
        )
        for name, spans in (("gold", true), ("missed", true - found), ("spurious", found - true)):
            total[name] += len(spans)
    return total
