"""Places that are probably annotated wrongly, and their ranking.

In: what is annotated, what should be, and how likely that is. Out: one ranked list, as JSON if asked for. Knows nothing
of how faults are found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...codec import entity_row
from ...columns import printable
from ...entities import Entity, Example
from ...files import json_line, write_text

Kind = Literal["omitted", "label", "boundary", "predicted", "added", "removed", "label and boundary"]

LEAST = 0.25
"""Findings with a lower score are dropped: three of four places give 0.30."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One place that is probably annotated wrongly.

    `annotated` is what is there (None for nothing), `suggested` what should be (None for nothing). `score` in [0, 1]
    estimates how likely the suggestion is right, `evidence` says why. `row` is the example's number.
    """

    row: int
    example: Example
    kind: Kind
    score: float
    annotated: Entity | None
    suggested: Entity | None
    evidence: str

    @property
    def span(self) -> tuple[int, int]:
        """From the first character of either entity to the last."""
        entities = [entity for entity in (self.annotated, self.suggested) if entity is not None]
        return min(e.start for e in entities), max(e.end for e in entities)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: where it is, the text, both entities as {"label", "text", "start", "end"} or null, and why."""
        return {
            "id": self.example.id,
            "source": self.example.source,
            "kind": self.kind,
            "score": round(self.score, 4),
            "text": self.example.text,
            "annotated": self.annotated and entity_row(self.annotated),
            "suggested": self.suggested and entity_row(self.suggested),
            "evidence": self.evidence,
        }

    def __str__(self) -> str:
        """One line: the place, the score, what is there and what should be.

        >>> row = Example("0", "去北京", (), "train.json:1")
        >>> print(Finding(0, row, "omitted", 0.9, None, Entity("address", "北京", 1, 3), "address in 9 of 10 places"))
        train.json:1  0.90  omitted: nothing → address 北京 [1, 3)  (address in 9 of 10 places)
        """
        old, new = (
            f"{entity.label} {entity.text} [{entity.start}, {entity.end})" if entity else "nothing"
            for entity in (self.annotated, self.suggested)
        )
        place = self.example.source or self.example.id
        line = f"{place}  {self.score:.2f}  {self.kind}: {old} → {new}  ({self.evidence})"
        return printable(line, one_line=True)


def strongest(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by falling score, ties in the order of the rows; of overlapping places only the first."""
    kept: list[Finding] = []
    taken: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for finding in sorted(findings, key=lambda f: (-f.score, f.row, f.span)):
        if finding.score < LEAST:
            break
        start, end = finding.span
        if not any(start < stop and begin < end for begin, stop in taken[finding.row]):
            taken[finding.row].append((start, end))
            kept.append(finding)
    return kept


def write_findings(path: str | Path, findings: Iterable[Finding]) -> None:
    """Write `Finding.to_dict` of each as a line of JSON, all or none."""
    write_text(Path(path), (json_line(finding.to_dict()) for finding in findings))
