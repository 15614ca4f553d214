"""The answers that one text allows, as an automaton over bytes.

In: label names and a text. Out: which bytes may follow in an answer, and how it can be closed. Knows nothing of tokens.

A general grammar engine (the tests compare with llguidance) can express all of the format but two rules: no surface
twice, and an end that is reached in time. Both are natural for an automaton that is made for this one format, and
nothing has to be compiled for each text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

QUOTE = ord('"')
UNWRITABLE = 0xFF
"""Stands for a character that UTF-8 cannot encode (a lone surrogate); no UTF-8 string contains this byte."""


@dataclass(frozen=True, slots=True)
class Literal:
    """Inside fixed text: the strings one of which must follow, and where each leads."""

    options: tuple[tuple[bytes, Place], ...]


@dataclass(frozen=True, slots=True)
class Surface:
    """Inside a surface under the last of `labels`: what is `written` of it, the places `at` which that ends in the
    text, and the surfaces that the label has already `used`."""

    labels: tuple[int, ...]
    used: frozenset[bytes]
    written: bytes
    at: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Between two pieces. `kind` is "start", "surface" (before its first byte), "quote" (behind its closing quote),
    "list" (behind a label's list) or "done"; `labels` are the numbers of those written so far, `used` the surfaces of
    the last one."""

    kind: str
    labels: tuple[int, ...] = ()
    used: frozenset[bytes] = frozenset()


State = Literal | Surface | Place


class Automaton:
    """The answers that one text allows, byte by byte. States are values; `after` and `next_bytes` lead along them."""

    def __init__(self, labels: Sequence[str], text: str) -> None:
        self.labels = labels
        self.keys = [json.dumps(label, ensure_ascii=False).encode() + b':["' for label in labels]
        spelled = bytearray()
        starts = [0]  # of each character, and the end of the text
        for character in text:
            if 0xD800 <= ord(character) <= 0xDFFF:
                spelled.append(UNWRITABLE)
            else:
                spelled += json.dumps(character, ensure_ascii=False)[1:-1].encode()
            starts.append(len(spelled))
        self.text = bytes(spelled)
        self.is_start = bytearray(len(spelled) + 1)
        for start in starts:
            self.is_start[start] = 1
        self.first = tuple(start for start in starts[:-1] if self.text[start] != UNWRITABLE)
        self.beginning = self._enter(Place("start"))

    def _enter(self, place: Place) -> State:
        """The state at `place`: what may follow there."""
        if place.kind == "surface":
            return Surface(place.labels, place.used, b"", self.first)
        lists = [
            (key, Place("surface", (*place.labels, label)))
            for label, key in enumerate(self.keys)
            if label not in place.labels and self._can_grow(b"", self.first, frozenset())
        ]
        if place.kind == "start":
            return Literal(((b"{}", Place("done")), *((b"{" + key, then) for key, then in lists)))
        if place.kind == "list":
            return Literal(((b"}", Place("done")), *((b"," + key, then) for key, then in lists)))
        if place.kind == "quote":
            closed: tuple[tuple[bytes, Place], ...] = ((b"]", Place("list", place.labels)),)
            if self._can_grow(b"", self.first, place.used):
                closed += ((b',"', Place("surface", place.labels, place.used)),)
            return Literal(closed)
        return place

    def _ends(self, at: int, written: bytes) -> Iterator[bytes]:
        """`written` continued from `at` in the text, up to the end of each character, shortest first."""
        for end in range(at, len(self.text) + 1):
            if end > at and self.text[end - 1] == UNWRITABLE:
                return
            if self.is_start[end]:
                whole = written + self.text[at:end]
                if whole:
                    yield whole

    def _can_grow(self, written: bytes, at: tuple[int, ...], used: Collection[bytes]) -> bool:
        """Whether `written`, continued at any of `at`, can still become a surface that is not `used`."""
        return any(whole not in used for place in at for whole in self._ends(place, written))

    def after(self, state: State, byte: int) -> State | None:
        """The state behind `byte`; None if it may not come."""
        if isinstance(state, Literal):
            going = tuple((rest[1:], then) for rest, then in state.options if rest[0] == byte)
            if len(going) == 1 and not going[0][0]:
                return self._enter(going[0][1])
            return Literal(going) if going else None
        if isinstance(state, Surface):
            # If one occurrence is between two characters, all are: the bytes say where a character ends.
            if byte == QUOTE and self.is_start[state.at[0]]:
                if not state.written or state.written in state.used:
                    return None
                return self._enter(Place("quote", state.labels, state.used | {state.written}))
            at = tuple(place + 1 for place in state.at if place < len(self.text) and self.text[place] == byte)
            written = state.written + bytes([byte])
            if byte == UNWRITABLE or not at or not self._can_grow(written, at, state.used):
                return None
            return Surface(state.labels, state.used, written, at)
        return None

    def next_bytes(self, state: State) -> set[int]:
        """The bytes that may come next, and some that `after` will refuse."""
        if isinstance(state, Literal):
            return {rest[0] for rest, _ in state.options}
        if isinstance(state, Surface):
            return {QUOTE, *(self.text[place] for place in state.at if place < len(self.text))}
        return set()

    def forecast(self, state: State, length: int) -> bytes:
        """About `length` bytes ahead: those that must come, or in a surface how its first place in the text goes on."""
        ahead = b""
        while len(ahead) < length:
            if isinstance(state, Surface):
                if not state.written:
                    break
                place = state.at[0]
                going = self.text[place : place + length].partition(bytes([UNWRITABLE]))[0]
                return ahead + going
            if not isinstance(state, Literal) or len(state.options) > 1:
                break
            ahead += state.options[0][0]
            state = self._enter(state.options[0][1])
        return ahead

    def closing(self, state: State) -> bytes:
        """A short string that leads from `state` to the end of the answer."""
        if isinstance(state, Literal):
            rest, then = min(state.options, key=lambda option: (option[1].kind == "surface", len(option[0])))
            return rest + self.closing(self._enter(then))
        if isinstance(state, Surface):
            surface = next(
                whole for at in state.at for whole in self._ends(at, state.written) if whole not in state.used
            )
            return surface[len(state.written) :] + b'"]}'
        return b""
