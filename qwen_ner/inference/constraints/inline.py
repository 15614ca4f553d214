"""The copies of one text with entities marked in them, as an automaton over bytes: what `inline.InlineCodec` writes.

In: label names and a text. Out: which bytes may follow in an answer. Knows nothing of tokens.

The only doubt is over a space in a mark: it may go on with the text, or begin the label. The label is tried first;
since no label has a space, at most one is begun at a time, and what turns out to be none is read as text again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...composed import nfc
from ...inline import escaped
from .automaton import BEGINS

OPEN, SPACE = b"[ "


class Marks:
    """What may stand behind a surface of answers with these labels: kept for all texts."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.ends = [f" {label}]".encode() for label in labels]

    def rests(self, written: bytes) -> list[bytes]:
        """How the ends that begin with `written` go on."""
        return [end[len(written) :] for end in self.ends if end.startswith(written)]


class State(NamedTuple):
    """A point in an answer: the text is copied up to byte `at`, a mark was `opened` there (-1: none is open), and
    `written` since then is the beginning of a label's end."""

    at: int = 0
    opened: int = -1
    written: bytes = b""


class InlineAutomaton:
    """The answers that one text allows, in NFC. States are values; `after` and `next_bytes` lead along them.

    From each state the answer can be completed.
    """

    beginning = State()

    def __init__(self, fixed: Marks, text: str) -> None:
        self.fixed, self.source = fixed, (text := nfc(text))
        self.characters = [escaped(character).encode("utf-8", "replace") for character in text]
        self.text = b"".join(self.characters)
        self.is_start = bytearray(self.text.translate(BEGINS) + b"\x01")
        at = 0
        for character in self.characters:
            if character.startswith(b"\\"):
                self.is_start[at + 1] = 0
            at += len(character)

    def is_done(self, state: State) -> bool:
        return state.opened < 0 and state.at == len(self.text)

    def after(self, state: State, piece: bytes) -> State | None:
        """The state behind `piece`; None if it may not come."""
        at, opened, written = state
        if opened < 0 and self.text.startswith(piece, at):
            return State(at + len(piece))
        n = 0
        while n < len(piece):
            byte, n = piece[n], n + 1
            if written:
                written += bytes([byte])
                if rests := self.fixed.rests(written):
                    if b"" in rests:
                        opened, written = -1, b""
                    continue
                piece, n, written = written + piece[n:], 0, b""  # it was text
                if not self.text.startswith(b" ", at):
                    return None
                at, n = at + 1, 1
            elif byte == OPEN and opened < 0 and self.is_start[at] and at < len(self.text):
                opened = at
            elif byte == SPACE and at > opened >= 0 and self.is_start[at]:
                written = b" "
            elif self.text[at : at + 1] == bytes([byte]):
                at += 1
            else:
                return None
        return State(at, opened, written)

    def next_bytes(self, state: State) -> set[int]:
        """The bytes that may follow."""
        at, opened, written = state
        copied = at + len(written) if self.text.startswith(written, at) else len(self.text)
        found = set(self.text[copied : copied + 1])
        if written:
            # Text behind a space may begin a label again, so `after` has the last word.
            return found | {rest[0] for rest in self.fixed.rests(written)} | {SPACE}
        if self.is_start[at] and (at > opened >= 0 or (opened < 0 and at < len(self.text))):
            found.add(OPEN if opened < 0 else SPACE)
        return found

    def forecast(self, state: State, length: int) -> bytes:
        """About `length` bytes ahead: the rest of a label that is begun, then how the text goes on."""
        ahead = self.text[state.at : state.at + length]
        if not state.written:
            return ahead
        rests = self.fixed.rests(state.written)
        if len(rests) == 1:
            return rests[0] + ahead
        return ahead[len(state.written) :] if ahead.startswith(state.written) else b""
