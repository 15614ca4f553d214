"""Greedy decoding on a GPU, of many rows in fixed places: where an answer ends, another prompt begins.

In: a `StaticDecoder`, rows of prompts, and what each answer may be. Out: the rows, completed. Running out of memory is
for its caller to handle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from .base import BATCH_TOKENS, Request, Row
from .decoding import BatchWriter, Likeliest
from .prefix_cache import repeat_cache
from .static import ROWS, StaticDecoder

NOBODY = Request((), None, lambda completion: None, lambda: False)


def _free(places: int) -> list[Row]:
    return [Row(NOBODY, done=True, answered=True)] * places


@dataclass
class ContinuousWriter(BatchWriter):
    """Writes with `decoder`, without drafts: a step of many rows computes, and refused drafts are wasted work.

    `rows` are its places; those of rows that are done are free.
    """

    decoder: StaticDecoder
    fitting: dict[int, int] = field(init=False, default_factory=dict)

    def need(self, row: Row) -> int:
        """The tokens of a place: a power of two or three quarters of one, so that few graphs serve all lengths."""
        power = max(64, 1 << (super().need(row) - 1).bit_length())
        return power * 3 // 4 if super().need(row) <= power * 3 // 4 else power

    def most(self, length: int) -> int:
        if length not in self.fitting:  # asking the device takes time, and a step is short
            self.fitting[length] = self.decoder.fitting_rows(length)
        fitting = max(1, min(self.budget // length, self.fitting[length]))
        return max(rows for rows in ROWS if rows <= fitting)

    def release(self) -> None:
        self.decoder.release()

    def _drop_done(self) -> None:
        """Their places are free."""

    def _read(self, waiting: deque[Row], count: int) -> list[Row]:
        """They are padded on the right: a column of the cache is a position, and no token sees the padding."""
        joining = [waiting.popleft() for _ in range(count)]
        self._make_room(joining)
        prefix = self.prefix([row.prompt for row in joining])
        shared, device = prefix.get_seq_length(), self.model.device
        together = max(1, BATCH_TOKENS // (max(len(row.prompt) for row in joining) - shared))
        for start in range(0, count, together):
            rows = joining[start : start + together]
            own = [torch.tensor(row.prompt[shared:]) for row in rows]
            ids = torch.nn.utils.rnn.pad_sequence(own, batch_first=True).to(device)
            cache = repeat_cache(prefix, len(rows), self.model)
            hidden = self.model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
            last = torch.tensor([len(tokens) - 1 for tokens in own]).to(device)
            logits = self.model.lm_head(hidden[torch.arange(len(own), device=device), last])[:, None]
            self.decoder.fill([self.rows.index(row) for row in rows], cache)
            self._take(rows, logits, Likeliest.of(logits))
        return joining

    def _step(self) -> list[Row]:
        self._make_room([])
        last = [(0, 0) if row.done else (row.ids[-1], len(row.prompt) + len(row.ids) - 1) for row in self.rows]
        taking = self.running
        self._take(self.rows, *self.decoder.step(*zip(*last, strict=True)))
        return taking

    def _make_room(self, joining: Sequence[Row]) -> None:
        """Put `joining` into free places. If there are too few, or many too many, or if they are too short or twice as
        long as they must be, those that run move to others."""
        places = [i for i, row in enumerate(self.rows) if not row.done]
        running = [self.rows[i] for i in places]
        count, length = len(running) + len(joining), max(map(self.need, [*running, *joining]))
        enough = min(rows for rows in ROWS if rows >= count)
        fits = length <= self.decoder.length < 2 * length
        if fits and (enough == len(self.rows) or (joining and enough < len(self.rows))):
            free = (i for i, row in enumerate(self.rows) if row.done)
            for row in joining:
                self.rows[next(free)] = row
            return
        self.rows = [*running, *joining, *_free(enough - count)]
        self.decoder.move(places, enough, length)
