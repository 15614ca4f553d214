"""Greedy decoding on a GPU, of many rows in a fixed number of places: where an answer ends, another prompt begins.

In: a `StaticDecoder`, rows of prompts behind a common prefix, and what each answer may be. Out: the rows, completed.
Running out of memory is for its caller to handle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import torch

from .base import BATCH_TOKENS
from .decoding import BatchWriter, Judged, Row
from .prefix_cache import repeat_cache
from .static import ROWS, StaticDecoder

if TYPE_CHECKING:
    from transformers import DynamicCache

REFILL = 4
"""Prompts are read once a place in so many is free: a pass over few prompts takes as long as a pass over many."""


@dataclass(frozen=True)
class ContinuousWriter(BatchWriter):
    """Writes with `decoder`, without drafts: a step of many rows computes, and refused drafts are wasted work."""

    decoder: StaticDecoder

    def length(self, row: Row) -> int:
        """The tokens of a place: a power of two or three quarters of one, so that few graphs serve all lengths."""
        power = max(64, 1 << (super().length(row) - 1).bit_length())
        return power * 3 // 4 if super().length(row) <= power * 3 // 4 else power

    def together(self, waiting: Sequence[Row], budget: int) -> int:
        length = self.length(waiting[0])
        fitting = max(1, min(budget // length, self.decoder.fitting_rows(length)))
        enough = min((rows for rows in ROWS if rows >= len(self._alike(waiting))), default=ROWS[-1])
        return max(rows for rows in ROWS if rows <= min(fitting, enough))

    def _alike(self, waiting: Sequence[Row]) -> list[Row]:
        """The rows at the head of `waiting` that need more than half as many tokens as the first."""
        longest = super().length(waiting[0])
        return list(takewhile(lambda row: 2 * (len(row.prompt) + self.limit) > longest, waiting))

    def write(self, waiting: Sequence[Row], together: int, prefix: DynamicCache) -> Iterator[list[Row]]:
        prompts = deque(self._alike(waiting))
        self.decoder.reserve(together, self.length(waiting[0]))
        rows = [Row(-1, (), None, done=True)] * together
        while True:
            free = [i for i, row in enumerate(rows) if row.done]
            if prompts and len(free) * REFILL >= len(rows):
                taking = self._read(rows, free, prompts, prefix)
            elif len(free) < len(rows):
                if not prompts:
                    rows = self._move_together(rows)
                taking = [row for row in rows if not row.done]
                last = [(0, 0) if row.done else (row.ids[-1], len(row.prompt) + len(row.ids) - 1) for row in rows]
                self._take(rows, *self.decoder.step(*zip(*last, strict=True)))
            else:
                return
            if done := [row for row in taking if row.done]:
                yield done

    def _read(self, rows: list[Row], free: list[int], prompts: deque[Row], prefix: DynamicCache) -> list[Row]:
        """Put the next of `prompts` into `free` places of `rows`; returns them, each with its first token.

        They are padded on the right: a column of the cache is a position, and no token sees the padding behind it.
        """
        shared, device = prefix.get_seq_length(), self.model.device
        count = max(1, BATCH_TOKENS // (len(prompts[0].prompt) - shared))
        taken = [prompts.popleft() for _ in free[:count] if prompts]
        own = [torch.tensor(row.prompt[shared:]) for row in taken]
        ids = torch.nn.utils.rnn.pad_sequence(own, batch_first=True).to(device)
        cache = repeat_cache(prefix, len(taken), self.model)
        hidden = self.model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        last = torch.tensor([len(tokens) - 1 for tokens in own]).to(device)
        logits = self.model.lm_head(hidden[torch.arange(len(own), device=device), last])[:, None]
        places = free[: len(taken)]
        self.decoder.fill(places, cache)
        for place, row in zip(places, taken, strict=True):
            rows[place] = row
        self._take(taken, logits, Judged.of(logits))
        return taken

    def _move_together(self, rows: list[Row]) -> list[Row]:
        """The rows that are not done in fewer places, if so few are left."""
        writing = [i for i, row in enumerate(rows) if not row.done]
        enough = min(count for count in ROWS if count >= len(writing))
        if enough >= len(rows):
            return rows
        self.decoder.keep(writing, enough)
        return [rows[i] for i in writing] + [Row(-1, (), None, done=True)] * (enough - len(writing))
