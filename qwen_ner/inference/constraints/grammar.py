"""What may be generated for one text: the target format, filled with substrings of the text.

In: label names, a tokenizer, a text. Out: a `Constraint` that says which tokens may come next. It allows exactly the
answers in the format of `codec.Codec.encode` (compact JSON, each label at most once and with at least one surface, in
any order) whose surfaces are substrings of the text, none twice under a label, and which are closed before the tokens
run out. Knows nothing of models or of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...entities import NerError
from .automaton import QUOTE, Automaton, Place, State, Surface
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Constraint:
    """Which tokens one answer may consist of, while it is written: see `backends.base.Constraint`.

    The answer and its end token take at most `max_new_tokens`: a token behind which the answer could no longer be
    closed in time may not come. Raises `NerError` if not even `{}` fits.

    `forced_surfaces` are the (label, surface) pairs that are in the answer only because the model could not write a
    surface twice: it chose to close 工行, which the list had already, and had to go on to 工行使用. They are no
    predictions.
    """

    def __init__(self, vocabulary: Vocabulary, automaton: Automaton, max_new_tokens: int) -> None:
        self.vocabulary, self.automaton, self.max_new_tokens = vocabulary, automaton, max_new_tokens
        self.restart()
        if not self._in_time(automaton.beginning, max_new_tokens):
            raise NerError("no room for {} and its end token", value=max_new_tokens, place="max_new_tokens")

    def restart(self) -> None:
        self.state: State | None = self.automaton.beginning
        self.remaining = self.max_new_tokens
        # A way to the end that fits into what remains, if one had to be looked for; empty: spell it when needed.
        self.plan: tuple[int, ...] = ()
        self.forced_surfaces: frozenset[tuple[str, str]] = frozenset()
        self._repeating = False  # whether the model chose to end the current surface as a repetition

    def _in_time(self, state: State, remaining: int) -> bool:
        """Whether the answer can be closed and ended from `state` in `remaining` tokens."""
        rest = self.automaton.closing(state)
        return len(rest) < remaining or len(self.vocabulary.spell(rest)) < remaining

    def _plan_end(self) -> tuple[int, ...]:
        if not self.plan and self.state is not None:
            self.plan = self.vocabulary.spell(self.automaton.closing(self.state))
        return self.plan

    def _behind(self, token: int) -> State | None:
        """The state behind `token`; None if it may not come."""
        state = self.state
        if token in self.vocabulary.ends:
            return state if state == Place("done") else None
        spelling = self.vocabulary.bytes.get(token)
        if not spelling or state is None:
            return None
        for byte in spelling:
            state = self.automaton.after(state, byte)
            if state is None:
                return None
        in_time = self._in_time(state, self.remaining - 1) or token == self._plan_end()[0]
        return state if in_time else None

    def allows(self, token: int) -> bool:
        if self._behind(token) is not None:
            return True
        self._repeating = self._repeating or self._repeats(token)
        return False

    def _repeats(self, token: int) -> bool:
        """Whether `token`, which is refused, would close a surface that its list already has."""
        state = self.state
        for byte in self.vocabulary.bytes.get(token, b""):
            if not isinstance(state, Surface):
                return False
            if byte == QUOTE:
                return state.written in state.used
            state = self.automaton.after(state, byte)
        return False

    def allowed(self) -> list[int]:
        """All tokens that may come next: at least one until an end token was taken."""
        if self.state == Place("done"):
            return sorted(self.vocabulary.ends)
        if self.state is None:
            return []
        reached = self._reach(self.state, b"", 0, len(self.vocabulary.spellings))
        return [
            token
            for token, state in reached
            if self._in_time(state, self.remaining - 1) or token == self._plan_end()[0]
        ]

    def _reach(self, state: State, prefix: bytes, low: int, high: int) -> Iterator[tuple[int, State]]:
        """The tokens of `spellings[low:high]`, which begin with `prefix`, that may come, and the state behind each."""
        for byte in self.automaton.next_bytes(state):
            longer = prefix + bytes([byte])
            first, last = self.vocabulary.narrow(longer, low, high)
            if first == last or (then := self.automaton.after(state, byte)) is None:
                continue
            while first < last and self.vocabulary.spellings[first] == longer:
                yield self.vocabulary.numbers[first], then
                first += 1
            yield from self._reach(then, longer, first, last)

    @property
    def closed(self) -> bool:
        """Whether the answer is complete: only an end token may follow."""
        return self.state == Place("done")

    def forecast(self, limit: int) -> list[int]:
        """Up to `limit` tokens that must or are likely to come: fixed text, and in a surface how the text goes on."""
        if self.state is None:
            return []
        return list(self.vocabulary.spell(self.automaton.forecast(self.state, 3 * limit))[:limit])

    def advance(self, token: int) -> None:
        """Take `token`. Raises `ValueError` if it may not come."""
        behind = self._behind(token)
        if behind is None:
            raise ValueError(f"token {token} may not come here")
        if self._repeating and token not in self.vocabulary.ends:
            self._note_forced(token)
        self.plan = self.plan[1:] if self.plan[:1] == (token,) else ()
        self.state = None if token in self.vocabulary.ends else behind
        self.remaining -= 1

    def _note_forced(self, token: int) -> None:
        """Add the surface that `token` closes, if any, to `forced_surfaces`: the model had chosen to repeat another."""
        state = self.state
        for byte in self.vocabulary.bytes[token]:
            assert state is not None
            if isinstance(state, Surface) and byte == QUOTE:
                label, surface = self.automaton.labels[state.labels[-1]], json.loads(b'"' + state.written + b'"')
                self.forced_surfaces |= {(label, surface)}
                self._repeating = False
                return
            state = self.automaton.after(state, byte)


class Grammar:
    """Makes constraints for one model's labels and tokenizer.

    >>> grammar = Grammar(["address", "company"], tokenizer, end_token_ids=(2,))  # doctest: +SKIP
    >>> grammar.constraint("三星在北京", max_new_tokens=64).allows(tokenizer.encode("{}")[0])  # doctest: +SKIP
    True
    """

    def __init__(self, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, end_token_ids: Sequence[int]) -> None:
        self.labels = list(labels)
        self.vocabulary = Vocabulary(tokenizer, end_token_ids)

    def constraint(self, text: str, max_new_tokens: int) -> Constraint:
        return Constraint(self.vocabulary, Automaton(self.labels, text), max_new_tokens)
