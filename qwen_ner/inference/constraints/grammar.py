"""What may be generated for one text: the target format, filled with substrings of the text.

In: label names, a tokenizer, a text. Out: a `Constraint` that says of each next token whether it may come. It allows
exactly what is written in the format of `codec.Codec.encode` (compact JSON, each label at most once, at least one
surface a label) in any order, whose surfaces are substrings of the text by characters, none twice under a label, and
which is closed before the tokens run out. Knows nothing of models and of the prompt.

A grammar of general use (llguidance, which the tests compare with) can say all of this but the last two: a surface
forbidden because it was written before, and an end that must be reached in time. Both are natural for an automaton over
bytes that is made for this one format, and it needs no compilation for each text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...entities import NerError
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUOTE = ord('"')
UNWRITABLE = 0xFF
"""Stands in a text for a character that UTF-8 cannot spell (a lone surrogate); no UTF-8 string holds this byte."""


@dataclass(frozen=True, slots=True)
class _Literal:
    """Inside fixed text: the strings of which one must follow, and where each leads."""

    options: tuple[tuple[bytes, _Place], ...]


@dataclass(frozen=True, slots=True)
class _Surface:
    """Inside a surface under the last of the `labels`: `written` so far, which stands before each place `at` in the
    text, and the surfaces that the label already has."""

    labels: tuple[int, ...]
    used: frozenset[bytes]
    written: bytes
    at: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Between two pieces: at the `start`, in a `surface`'s first byte, behind its quote, behind a list, or `done`;
    the numbers of the `labels` written so far, and the surfaces that the last of them has."""

    kind: str
    labels: tuple[int, ...] = ()
    used: frozenset[bytes] = frozenset()


_State = _Literal | _Surface | _Place


class Automaton:
    """The targets that one text allows, byte by byte. States are values; `after` and `next_bytes` go along them."""

    def __init__(self, labels: Sequence[str], text: str) -> None:
        self.labels = labels
        self.keys = [json.dumps(label, ensure_ascii=False).encode() + b':["' for label in labels]
        spelled = bytearray()
        starts = [0]  # of the characters, and the end of the text
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
        self.beginning = self._enter(_Place("start"))

    def _enter(self, place: _Place) -> _State:
        """The state in which `place` is: of what may follow there."""
        if place.kind == "surface":
            return _Surface(place.labels, place.used, b"", self.first)
        lists = [
            (key, _Place("surface", (*place.labels, label)))
            for label, key in enumerate(self.keys)
            if label not in place.labels and self._can_grow(b"", self.first, frozenset())
        ]
        if place.kind == "start":
            return _Literal(((b"{}", _Place("done")), *((b"{" + key, then) for key, then in lists)))
        if place.kind == "list":
            return _Literal(((b"}", _Place("done")), *((b"," + key, then) for key, then in lists)))
        if place.kind == "quote":
            closed: tuple[tuple[bytes, _Place], ...] = ((b"]", _Place("list", place.labels)),)
            if self._can_grow(b"", self.first, place.used):
                closed += ((b',"', _Place("surface", place.labels, place.used)),)
            return _Literal(closed)
        return place

    def _ends(self, at: int, unwritten: bytes) -> Iterator[bytes]:
        """`unwritten` and its continuations from `at` in the text that end behind a character, shortest first."""
        for end in range(at, len(self.text) + 1):
            if end > at and self.text[end - 1] == UNWRITABLE:
                return
            if self.is_start[end]:
                whole = unwritten + self.text[at:end]
                if whole:
                    yield whole

    def _can_grow(self, written: bytes, at: tuple[int, ...], used: Collection[bytes]) -> bool:
        """Whether `written`, going on at any of `at`, can still become a surface that is not yet `used`."""
        return any(whole not in used for place in at for whole in self._ends(place, written))

    def after(self, state: _State, byte: int) -> _State | None:
        """The state behind `byte`, None where it may not come."""
        if isinstance(state, _Literal):
            going = tuple((rest[1:], then) for rest, then in state.options if rest[0] == byte)
            if len(going) == 1 and not going[0][0]:
                return self._enter(going[0][1])
            return _Literal(going) if going else None
        if isinstance(state, _Surface):
            # Where one occurrence is between two characters all are: a spelling says where its characters end.
            if byte == QUOTE and self.is_start[state.at[0]]:
                if not state.written or state.written in state.used:
                    return None
                return self._enter(_Place("quote", state.labels, state.used | {state.written}))
            at = tuple(place + 1 for place in state.at if place < len(self.text) and self.text[place] == byte)
            written = state.written + bytes([byte])
            if byte == UNWRITABLE or not at or not self._can_grow(written, at, state.used):
                return None
            return _Surface(state.labels, state.used, written, at)
        return None

    def next_bytes(self, state: _State) -> set[int]:
        """The bytes that may come next, and some that `after` then refuses."""
        if isinstance(state, _Literal):
            return {rest[0] for rest, _ in state.options}
        if isinstance(state, _Surface):
            return {QUOTE, *(self.text[place] for place in state.at if place < len(self.text))}
        return set()

    def forecast(self, state: _State, length: int) -> bytes:
        """Up to about `length` bytes: those that alone may come, or in a begun surface those of its first place."""
        ahead = b""
        while len(ahead) < length:
            if isinstance(state, _Surface):
                if not state.written:
                    break
                place = state.at[0]
                going = self.text[place : place + length].partition(bytes([UNWRITABLE]))[0]
                return ahead + going
            if not isinstance(state, _Literal) or len(state.options) > 1:
                break
            ahead += state.options[0][0]
            state = self._enter(state.options[0][1])
        return ahead

    def closing(self, state: _State) -> bytes:
        """A short string that leads from `state` to the end."""
        if isinstance(state, _Literal):
            rest, then = min(state.options, key=lambda option: (option[1].kind == "surface", len(option[0])))
            return rest + self.closing(self._enter(then))
        if isinstance(state, _Surface):
            surface = next(
                whole for at in state.at for whole in self._ends(at, state.written) if whole not in state.used
            )
            return surface[len(state.written) :] + b'"]}'
        return b""


class Constraint:
    """What the next token of one answer may be, while it is written: ask, `advance`, ask, …

    The answer with its end token takes at most `max_new_tokens`: a token after which the rest could no longer be closed
    in time may not come. Raises `NerError` where not even `{}` fits.

    `unmeant` are the (label, surface) pairs that are there only because the model was not let write a surface a second
    time: it wanted to close 工行, which the list has, and had to go on to 工行使用. Nobody predicted those.
    """

    def __init__(self, vocabulary: Vocabulary, automaton: Automaton, max_new_tokens: int) -> None:
        self.vocabulary, self.automaton = vocabulary, automaton
        self.state: _State | None = automaton.beginning
        self.remaining = max_new_tokens
        # A way to the end that fits into what remains, if one had to be looked for; empty: spell it when needed.
        self.plan: tuple[int, ...] = ()
        self.unmeant: frozenset[tuple[str, str]] = frozenset()
        self._repeating = False  # whether in this surface the model wanted to repeat another one
        if not self._in_time(automaton.beginning, max_new_tokens):
            raise NerError(f"max_new_tokens: {max_new_tokens} leaves no room for {{}} and its end token")

    def _in_time(self, state: _State, remaining: int) -> bool:
        """Whether from `state` the answer can be closed and ended in `remaining` tokens."""
        rest = self.automaton.closing(state)
        return len(rest) < remaining or len(self.vocabulary.spelled(rest)) < remaining

    def _planned(self) -> tuple[int, ...]:
        if not self.plan and self.state is not None:
            self.plan = self.vocabulary.spelled(self.automaton.closing(self.state))
        return self.plan

    def _behind(self, token: int) -> _State | None:
        """The state behind `token`, None where it may not come."""
        state = self.state
        if token in self.vocabulary.ends:
            return state if state == _Place("done") else None
        spelling = self.vocabulary.bytes.get(token)
        if not spelling or state is None:
            return None
        for byte in spelling:
            state = self.automaton.after(state, byte)
            if state is None:
                return None
        in_time = self._in_time(state, self.remaining - 1) or token == self._planned()[0]
        return state if in_time else None

    def allows(self, token: int) -> bool:
        if self._behind(token) is not None:
            return True
        self._repeating = self._repeating or self._repeats(token)
        return False

    def _repeats(self, token: int) -> bool:
        """Whether `token`, which may not come, would close a surface that its list has already."""
        state = self.state
        for byte in self.vocabulary.bytes.get(token, b""):
            if not isinstance(state, _Surface):
                return False
            if byte == QUOTE:
                return state.written in state.used
            state = self.automaton.after(state, byte)
        return False

    def allowed(self) -> list[int]:
        """All tokens that may come next; never none before an end token was taken."""
        if self.state == _Place("done"):
            return sorted(self.vocabulary.ends)
        if self.state is None:
            return []
        reached = self._reached(self.state, b"", 0, len(self.vocabulary.spellings))
        return [
            token for token, state in reached if self._in_time(state, self.remaining - 1) or token == self._planned()[0]
        ]

    def _reached(self, state: _State, prefix: bytes, low: int, high: int) -> Iterator[tuple[int, _State]]:
        """Tokens of `spellings[low:high]`, which begin with `prefix`, that may come, and the state behind each."""
        for byte in self.automaton.next_bytes(state):
            longer = prefix + bytes([byte])
            first, last = self.vocabulary.starting(longer, low, high)
            if first == last or (then := self.automaton.after(state, byte)) is None:
                continue
            while first < last and self.vocabulary.spellings[first] == longer:
                yield self.vocabulary.numbers[first], then
                first += 1
            yield from self._reached(then, longer, first, last)

    @property
    def closed(self) -> bool:
        """Whether the answer is whole and only an end token may follow."""
        return self.state == _Place("done")

    def forecast(self, limit: int) -> list[int]:
        """Up to `limit` tokens that must or may well come: what is fixed, and in a surface how the text goes on."""
        if self.state is None:
            return []
        return list(self.vocabulary.spelled(self.automaton.forecast(self.state, 3 * limit))[:limit])

    def advance(self, token: int) -> None:
        """Go on behind `token`. Raises `ValueError` where it may not come."""
        behind = self._behind(token)
        if behind is None:
            raise ValueError(f"token {token} may not come here")
        if self._repeating and token not in self.vocabulary.ends:
            self._settle(token)
        self.plan = self.plan[1:] if self.plan[:1] == (token,) else ()
        self.state = None if token in self.vocabulary.ends else behind
        self.remaining -= 1

    def _settle(self, token: int) -> None:
        """Note the surface that `token` closes, if it closes the one in which the model wanted to repeat another."""
        state = self.state
        for byte in self.vocabulary.bytes[token]:
            assert state is not None
            if isinstance(state, _Surface) and byte == QUOTE:
                label, surface = self.automaton.labels[state.labels[-1]], json.loads(b'"' + state.written + b'"')
                self.unmeant |= {(label, surface)}
                self._repeating = False
                return
            state = self.automaton.after(state, byte)


class Grammar:
    """Constraints for the texts of one model.

    >>> grammar = Grammar(["address", "company"], tokenizer, end_token_ids=(2,))  # doctest: +SKIP
    >>> grammar.constraint("三星在北京", max_new_tokens=64).allows(tokenizer.encode("{}")[0])  # doctest: +SKIP
    True
    """

    def __init__(self, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, end_token_ids: Sequence[int]) -> None:
        self.labels = list(labels)
        self.vocabulary = Vocabulary(tokenizer, end_token_ids)

    def constraint(self, text: str, max_new_tokens: int) -> Constraint:
        return Constraint(self.vocabulary, Automaton(self.labels, text), max_new_tokens)
