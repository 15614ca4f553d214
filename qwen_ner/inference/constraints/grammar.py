"""What may be generated for one text: the target format, filled with substrings of the text.

In: label names, a tokenizer, a text. Out: a `Constraint` that says which tokens may come next. In JSON it allows
exactly the answers in the format of `codec.Codec.encode` (compact JSON, each label at most once and with at least one
surface, in any order) whose surfaces are substrings of the text, none twice under a label, and which are closed before
the tokens run out. Inline it allows the copies of the text in which any parts are marked, none inside another, and
which end in time if the text itself does. Knows nothing of models or of the prompt.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...entities import NerError
from .automaton import Automaton, FixedText, State
from .inline import InlineAutomaton, Marks
from .inline import State as MarkState
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Constraint(ABC):
    """Which tokens one answer may consist of, while it is written: see `backends.base.Constraint`.

    The answer and its end token take at most `max_new_tokens`: a token behind which the answer could no longer be
    closed in time may not come. `forced_surfaces` are no predictions: see `JsonConstraint`.
    """

    target: str
    forced_surfaces: frozenset[tuple[str, str]] = frozenset()

    def __init__(self, vocabulary: Vocabulary, automaton: Any, max_new_tokens: int) -> None:
        self.vocabulary, self.automaton, self.max_new_tokens = vocabulary, automaton, max_new_tokens
        self.restart()

    @property
    def text(self) -> str:
        return self.automaton.source

    @property
    def labels(self) -> Sequence[str]:
        return self.automaton.fixed.labels

    def restart(self) -> None:
        self.state: Any = self.automaton.beginning
        self.remaining = self.max_new_tokens
        self._asked: tuple[int, Any] | None = None  # the token that was asked for last, and the state behind

    @abstractmethod
    def _may_lead(self, token: int, state: Any) -> bool:
        """Whether `token`, behind which is `state`, leaves time to end the answer."""

    def _behind(self, token: int) -> Any:
        """The state behind `token`; None if it may not come."""
        if token in self.vocabulary.ends:
            return self.state if self.closed else None
        spelling = self.vocabulary.bytes.get(token)
        if not spelling or self.state is None:
            return None
        state = self.automaton.after(self.state, spelling)
        return state if state is not None and self._may_lead(token, state) else None

    def allows(self, token: int) -> bool:
        behind = self._behind(token)
        self._asked = token, behind
        return behind is not None

    def allowed(self) -> list[int]:
        """All tokens that may come next: at least one until an end token was taken."""
        if self.state is None:
            return []
        if self.closed:
            return sorted(self.vocabulary.ends)
        reached = self._reach(self.state, b"", 0, len(self.vocabulary.spellings))
        return [token for token, state in reached if self._may_lead(token, state)]

    def _reach(self, state: Any, prefix: bytes, low: int, high: int) -> Iterator[tuple[int, Any]]:
        """The tokens of `spellings[low:high]`, which begin with `prefix`, that may come, and the state behind each."""
        for byte in self.automaton.next_bytes(state):
            longer = prefix + bytes([byte])
            first, last = self.vocabulary.narrow(longer, low, high)
            if first == last or (then := self.automaton.after(state, bytes([byte]))) is None:
                continue
            while first < last and self.vocabulary.spellings[first] == longer:
                yield self.vocabulary.numbers[first], then
                first += 1
            yield from self._reach(then, longer, first, last)

    @property
    def closed(self) -> bool:
        """Whether the answer is complete: only an end token may follow."""
        return self.state is not None and self.automaton.is_done(self.state)

    def forecast(self, limit: int) -> list[int]:
        """Up to `limit` tokens that must or are likely to come: fixed text, and how the text goes on."""
        if self.state is None:
            return []
        return list(self.vocabulary.spell(self.automaton.forecast(self.state, 3 * limit))[:limit])

    def advance(self, token: int) -> None:
        """Take `token`. Raises `ValueError` if it may not come."""
        behind = self._asked[1] if self._asked and self._asked[0] == token else self._behind(token)
        if behind is None:
            raise ValueError(f"token {token} may not come here")
        self.state = None if token in self.vocabulary.ends else behind
        self.remaining -= 1
        self._asked = None


class InlineConstraint(Constraint):
    """Of a text that has no room itself, every answer is cut off; marks are then not refused."""

    target = "inline"

    def __init__(self, vocabulary: Vocabulary, automaton: InlineAutomaton, max_new_tokens: int) -> None:
        # Tokens that suffice from each byte of the text on: one for a character that is one, else one for each byte.
        self.enough = [0] * (len(automaton.text) + 1)
        end = len(automaton.text)
        for character in reversed(automaton.characters):
            whole = vocabulary.is_token(character)
            for at in range(end - 1, end - len(character) - 1, -1):
                self.enough[at] = self.enough[end] + (1 if whole and at == end - len(character) else end - at)
            end -= len(character)
        super().__init__(vocabulary, automaton, max_new_tokens)
        self.cut_off = not self._in_time(automaton.beginning, max_new_tokens)

    @cached_property
    def fewest(self) -> list[int]:
        """The fewest tokens that spell the text from each of its bytes on."""
        text = self.automaton.text
        fewest = [0] * (len(text) + 1)
        for at in range(len(text) - 1, -1, -1):
            fewest[at] = 1 + min(fewest[at + length] for _, length in self.vocabulary.tokens_at(text, at))
        return fewest

    def _in_time(self, state: MarkState, remaining: int) -> bool:
        """Whether the answer can be ended from `state` in `remaining` tokens, the end token included."""
        rests = self.automaton.fixed.rests(state.written) if state.opened >= 0 else [b""]
        # A mark that was just opened needs a character more, which is one of the text.
        room = remaining - min(map(len, rests))
        return self.enough[state.at] < room or self.fewest[state.at] < room

    def _may_lead(self, token: int, state: MarkState) -> bool:
        return self.cut_off or self._in_time(state, self.remaining - 1)


class JsonConstraint(Constraint):
    """Raises `NerError` if not even `{}` fits.

    `forced_surfaces` are the (label, surface) pairs that are in the answer only because the model could not write a
    surface twice: it chose to close 工行, which the list had already, and had to go on to 工行使用. They are no
    predictions.
    """

    target = "json"

    def __init__(self, vocabulary: Vocabulary, automaton: Automaton, max_new_tokens: int) -> None:
        super().__init__(vocabulary, automaton, max_new_tokens)
        if not self._in_time(automaton.beginning, max_new_tokens):
            raise NerError("no room for {} and its end token", value=max_new_tokens, place="max_new_tokens")

    def restart(self) -> None:
        super().restart()
        # A way to the end that fits into what remains, if one had to be looked for; empty: spell it when needed.
        self.plan: tuple[int, ...] = ()
        self.forced_surfaces = frozenset()
        self._repeating = False  # whether the model chose to end the current surface as a repetition

    def _in_time(self, state: State, remaining: int) -> bool:
        """Whether the answer can be closed and ended from `state` in `remaining` tokens."""
        if self.automaton.closing_bound(state) < remaining:  # a token is at least a byte
            return True
        rest = self.automaton.closing(state)
        return len(rest) < remaining or len(self.vocabulary.spell(rest)) < remaining

    def _may_lead(self, token: int, state: State) -> bool:
        if self._in_time(state, self.remaining - 1):
            return True
        if not self.plan and self.state is not None:
            self.plan = self.vocabulary.spell(self.automaton.closing(self.state))
        return token == self.plan[0]

    def allows(self, token: int) -> bool:
        allowed = super().allows(token)
        if not allowed and (closed := self._closes(token)) and closed.written in closed.used:
            # What cannot become a new surface is refused for that, whether or not `token` closes it.
            self._repeating = self._repeating or self.automaton.can_grow(closed)
        return allowed

    def _closes(self, token: int) -> State | None:
        """The surface that `token` would close, before its quote; None if it would close none."""
        spelling = self.vocabulary.bytes.get(token)
        if not spelling or self.state is None or self.state.place.kind != "surface":
            return None
        read = self.automaton.read_surface(self.state, spelling)
        return read[0] if read and read[1] is not None else None

    def advance(self, token: int) -> None:
        closed = self._closes(token) if self._repeating else None
        super().advance(token)
        if closed:
            label = self.automaton.fixed.labels[closed.place.labels[-1]]
            self.forced_surfaces |= {(label, json.loads(b'"' + closed.written + b'"'))}
            self._repeating = False
        self.plan = self.plan[1:] if self.plan[:1] == (token,) else ()


FIXED: dict[str, type[FixedText | Marks]] = {"json": FixedText, "inline": Marks}
"""For each target what its answers have in common for all texts."""


def constrain(vocabulary: Vocabulary, fixed: FixedText | Marks, text: str, max_new_tokens: int) -> Constraint:
    """The constraint of an answer to `text`."""
    if isinstance(fixed, Marks):
        return InlineConstraint(vocabulary, InlineAutomaton(fixed, text), max_new_tokens)
    return JsonConstraint(vocabulary, Automaton(fixed, text), max_new_tokens)


class Grammar:
    """Makes constraints for one model's labels, tokenizer and target.

    >>> grammar = Grammar(["address", "company"], tokenizer, end_token_ids=(2,))  # doctest: +SKIP
    >>> grammar.constraint("三星在北京", max_new_tokens=64).allows(tokenizer.encode("{}")[0])  # doctest: +SKIP
    True
    """

    def __init__(
        self,
        labels: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        end_token_ids: Sequence[int],
        target: str = "json",
    ) -> None:
        self.fixed = FIXED[target](labels)
        self.vocabulary = Vocabulary(tokenizer, end_token_ids)

    def constraint(self, text: str, max_new_tokens: int) -> Constraint:
        return constrain(self.vocabulary, self.fixed, text, max_new_tokens)
