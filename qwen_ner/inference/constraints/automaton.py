"""The answers that one text allows, as an automaton over bytes.

In: label names and a text. Out: which bytes may follow in an answer, and how it can be closed. What is common to all
texts, braces, keys, brackets and quotes, is looked up in one `FixedText`. Knows nothing of tokens.

A general grammar engine (the tests compare with llguidance) can express all of the format but two rules: no surface
twice, and an end that is reached in time. Both are natural for an automaton that is made for this one format, and
nothing has to be compiled for each text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from ...composed import nfc

QUOTE = b'"'
UNWRITABLE = b"\xff"
"""Stands for a character that UTF-8 cannot encode (a lone surrogate); no UTF-8 string contains this byte."""

SURROGATE = re.compile("[\ud800-\udfff]")
ESCAPE = re.compile(rb"\\(?:u....|.)")
BEGINS = bytes(byte & 0xC0 != 0x80 for byte in range(256))
"""Of each byte, whether UTF-8 begins a character with it."""

SPELLED = 6
"""The most bytes that a character takes: \\u001f."""


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


class State(NamedTuple):
    """A point in an answer: the `place` passed last, what is `written` since then, and the surfaces that the label has
    already `used`. In a surface, `at` is the first place of the text where what is written of it stands."""

    place: Place
    written: bytes = b""
    used: frozenset[bytes] = frozenset()
    at: int = 0


class Automaton:
    """The answers that one text allows, in NFC. States are values; `after` and `next_bytes` lead along them."""

    def __init__(self, fixed: FixedText, text: str) -> None:
        self.fixed, self.source = fixed, (text := nfc(text))
        # A lone surrogate becomes U+DCFF, of which this error handler makes the one byte UNWRITABLE.
        spelled = SURROGATE.sub("\udcff", json.dumps(text, ensure_ascii=False)[1:-1])
        self.text = spelled.encode("utf-8", "surrogateescape")
        self.is_start = bytearray(self.text.translate(BEGINS) + b"\x01")  # of a character, and the end of the text
        for escape in ESCAPE.finditer(self.text):
            self.is_start[escape.start() + 1 : escape.end()] = bytes(len(escape[0]) - 1)
        # Where nothing can be copied from the text, no label is left to write.
        nothing = not self.text.strip(UNWRITABLE)
        self.beginning = State(Place("start", tuple(range(len(fixed.labels))) if nothing else ()))

    def is_done(self, state: State) -> bool:
        return state.place.kind == "done"

    def _places(self, written: bytes, at: int) -> Iterator[int]:
        """Where `written` stands in the text, as whole characters but for its last; from `at` on."""
        place = -1 if UNWRITABLE in written else self.text.find(written, at)
        while place >= 0:
            if self.is_start[place]:
                yield place
            place = self.text.find(written, place + 1)

    def _growths(self, state: State) -> Iterator[bytes]:
        """The surfaces that may still come of what is written: at its first place in the text, from short to long;
        then at its next."""
        for place in self._places(state.written, state.at):
            for end in range(place + max(1, len(state.written)), len(self.text) + 1):
                if self.text[end - 1] == UNWRITABLE[0]:
                    break
                if self.is_start[end] and (whole := self.text[place:end]) not in state.used:
                    yield whole

    def can_grow(self, state: State) -> bool:
        """Whether what is written of a surface can become one that is not used."""
        for used in state.used:
            if used.startswith(state.written):
                return any(self._growths(state))
        return True  # at its place in the text it goes on to the end of a character

    def read_surface(self, state: State, piece: bytes) -> tuple[State, bytes | None] | None:
        """`state`, which is in a surface, with what `piece` adds to it, and what follows its closing quote.

        None follows where the surface stays open. None is returned if the surface is not in the text.
        """
        quote = -1
        while True:
            quote = piece.find(QUOTE, quote + 1)
            written = state.written + (piece if quote < 0 else piece[:quote])
            at = next(self._places(written, state.at), -1)
            if at < 0:
                return None
            longer = State(state.place, written, state.used, at)
            if quote < 0:
                return longer, None
            if self.is_start[at + len(written)]:  # else the quote is a part of a character: \"
                return longer, piece[quote + 1 :]

    def after(self, state: State, piece: bytes) -> State | None:
        """The state behind `piece`; None if it may not come."""
        while piece:
            if state.place.kind != "surface":
                found = self.fixed.follow(state.place, state.written, piece)
                if found is None:
                    return None
                place, written, piece = found
                state = State(place, written, state.used if place.labels == state.place.labels else frozenset())
                continue
            read = self.read_surface(state, piece)
            if read is None:
                return None
            state, rest = read
            if rest is None:
                return state if self.can_grow(state) else None
            if not state.written or state.written in state.used:
                return None
            piece, labels, used = rest, state.place.labels, state.used | {state.written}
            another = self.can_grow(State(state.place, used=used))
            state = State(Place("quote" if another else "last", labels), used=used)
        return state

    def next_bytes(self, state: State) -> set[int]:
        """The bytes that may come next, and some that `after` will refuse."""
        if state.place.kind != "surface":
            return {option[0] for option, _ in self.fixed.options(state.place, state.written)}
        ends = (place + len(state.written) for place in self._places(state.written, state.at))
        return {QUOTE[0], *(self.text[end] for end in ends if end < len(self.text))}

    def forecast(self, state: State, length: int) -> bytes:
        """About `length` bytes ahead: those that must come, or in a surface how its first place in the text goes on."""
        ahead = b""
        while len(ahead) < length:
            if state.place.kind == "surface":
                if not state.written:
                    break
                end = state.at + len(state.written)
                return ahead + self.text[end : end + length].partition(UNWRITABLE)[0]
            options = self.fixed.options(state.place, state.written)
            if len(options) != 1:
                break
            ahead += options[0][0]
            state = State(options[0][1])
        return ahead

    def closing(self, state: State) -> bytes:
        """A short string that leads from `state` to the end of the answer."""
        if state.place.kind == "surface":
            return next(self._growths(state))[len(state.written) :] + b'"]}'
        options = self.fixed.options(state.place, state.written)
        if not options:
            return b""
        rest, then = min(options, key=lambda option: (option[1].kind == "surface", len(option[0])))
        return rest + self.closing(State(then, used=state.used if then.labels == state.place.labels else frozenset()))

    def closing_bound(self, state: State) -> int:
        """No fewer bytes than `closing` has: a key, and one character more than there are surfaces to avoid."""
        return self.fixed.longest + SPELLED * (len(state.used) + 1) + len('"]}')
