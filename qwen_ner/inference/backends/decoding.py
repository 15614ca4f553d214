"""Greedy or drawn decoding of a batch whose rows come and go, a step at a time, with drafts.

In: a causal LM, rows of prompts, and what each answer may or is likely to be. Out: the rows, completed. Running out of
memory is for its caller to handle.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from ...entities import NerError
from .base import Request, Row
from .batch_cache import BatchCache, distinct, join, pad_left, read_packed, read_prompts
from .drawing import probabilities, sample
from .prefix_cache import keeps_every_token

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

DRAFT_ROWS = 8
"""Batches of up to this many rows are drafted. A step of few rows waits for the weights to be read, so more tokens in
it cost next to nothing; a step of many rows computes, and refused drafts are wasted work."""

DRAFT_TOKENS = 6

REFILL = 4
"""Prompts are read once they are a REFILL-th as many as the rows that run: a pass over few prompts costs each of them
more, while a batch that lacks so many rows is still large."""

PACK_TOKENS = 320
"""Tokens of prompts that a CPU reads in one row. A pass costs it as much as 12 tokens more, since it waits for the
weights; that each token is compared with all costs as much for 300. So rows of 200 to 500 tokens are about as fast."""


class Likeliest(NamedTuple):
    """What the host knows of logits: the likeliest token of each row and its log-probability, by column.

    A logit less its normalizer, which stays on the device as (row, column), is a log-probability.
    """

    tokens: list[list[int]]
    logprobs: list[list[float]]
    normalizers: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor) -> Likeliest:
        tokens, logprobs, normalizers = find_likeliest(logits)
        return cls(tokens.T.tolist(), logprobs.T.tolist(), normalizers)

    def replace(self, column: int, rows: Sequence[int], tokens: torch.Tensor, logits: torch.Tensor) -> None:
        """Put `tokens`, one for each of `rows`, with their log-probabilities in the place of the likeliest."""
        gains = logits[list(rows), column, tokens].float() - self.normalizers[list(rows), column]
        for i, token, gain in zip(rows, tokens.tolist(), gains.tolist(), strict=True):
            self.tokens[column][i], self.logprobs[column][i] = token, gain


@dataclass
class BatchWriter:
    """Writes the answers of a batch, step after step; rows that wait join it as soon as others have left enough room.

    A step feeds each row the token that it took last and a draft, padded on the left. Columns of the cache that hold
    padding or refused drafts are masked, and positions are counted as if they were not there. Equal prompts that join
    together are read once. `budget` bounds the tokens of the batch, and `prefix` gives the cache of what prompts begin
    with.
    """

    model: PreTrainedModel
    ends: Sequence[int]
    pad_token_id: int
    limit: int
    constrained: bool
    budget: int
    prefix: Callable[[Sequence[Sequence[int]]], DynamicCache]
    rows: list[Row] = field(init=False, default_factory=list)
    batch: BatchCache | None = field(init=False, default=None)

    @property
    def running(self) -> list[Row]:
        return [row for row in self.rows if not row.done]

    def need(self, row: Row) -> int:
        """The tokens of `row`, prompt and answer."""
        return len(row.prompt) + self.limit

    def most(self, length: int) -> int:
        """How many rows of `length` tokens the batch may have."""
        return self.budget // length

    def release(self) -> None:
        """Free the batch."""
        self.batch = None

    def write(self, waiting: deque[Row], feed: Callable[[int], Sequence[Request]] | None) -> Iterator[list[Row]]:
        """Complete `waiting` and what `feed` gives meanwhile, in this order. Yields rows as they are done.

        Until a row has been yielded it is in `waiting` or `rows`.
        """
        while True:
            self._drop_done()
            if feed and (room := self._room(waiting)) > 0:
                waiting.extend(Row(request) for request in feed(room))
            if cancelled := [row for row in (*self.running, *waiting) if row.request.cancelled()]:
                for row in cancelled:
                    row.cancelled = row.done = True
                yield cancelled
                self._drop_done()
                still = [row for row in waiting if not row.done]
                waiting.clear()
                waiting.extend(still)
            running = self.running
            count = self._joining(waiting, running, more=feed is not None)
            if not (running or count):
                return
            taking = self._read(waiting, count) if count else self._step()
            if done := [row for row in taking if row.done]:
                yield done

    def _room(self, waiting: Sequence[Row]) -> int:
        """The tokens that further rows may take beside those there are."""
        rows = [*self.running, *waiting]
        if self.batch and not self.batch.joinable:
            return 0
        return self.budget - len(rows) * max(map(self.need, rows), default=0)

    def _joining(self, waiting: Sequence[Row], running: Sequence[Row], more: bool) -> int:
        """How many rows of `waiting` are to join those `running`; there may be `more` to come.

        A row that takes more than the budget goes alone.
        """
        if not waiting or (running and self.batch and not self.batch.joinable):
            return 0
        longest, count, room = max(map(self.need, running), default=0), 0, 0
        for row in waiting:
            longest = max(longest, self.need(row))
            room = max(self.most(longest), 1) - len(running)
            if room <= count:
                break
            count += 1
        company = count if more else max(count, room)  # nobody will follow the last few
        return count if company * REFILL >= len(running) else 0

    def _drop_done(self) -> None:
        """Take the rows that are done, all of which have been yielded, out of the batch."""
        going = [i for i, row in enumerate(self.rows) if not row.done]
        if self.batch and len(going) < len(self.rows):
            if going:
                self.batch.keep(going)
            else:
                self.batch = None
        self.rows = self.running

    def _read(self, waiting: deque[Row], count: int) -> list[Row]:
        """Have the first `count` rows of `waiting` join the batch; returns them, each with its first token."""
        joining = [waiting.popleft() for _ in range(count)]
        running, self.rows = self.rows, [*self.rows, *joining]
        prefix = self.prefix([row.prompt for row in joining])
        passes = self._prefills(joining, prefix)
        parts = [self._prefill(rows, prefix) for rows in passes]
        self.batch = join([self.batch, *parts] if self.batch else parts)
        self.rows = [*running, *(row for rows in passes for row in rows)]
        return joining

    def _prefills(self, joining: Sequence[Row], prefix: DynamicCache) -> list[list[Row]]:
        """`joining` by the pass over their prompts that they share, equal prompts together, long ones first."""
        rows = sorted(joining, key=lambda row: (-len(row.prompt), row.prompt))
        if not self._packs(prefix):
            return [rows]
        passes: list[list[Row]] = []
        tokens = 0
        for row in rows:
            own = len(row.prompt) - prefix.get_seq_length()
            copied = bool(passes) and row.prompt == passes[-1][-1].prompt
            if not passes or (tokens + own > PACK_TOKENS and not copied):
                passes.append([])
                tokens = 0
            passes[-1].append(row)
            tokens += 0 if copied else own
        return passes

    def _packs(self, prefix: DynamicCache) -> bool:
        """Whether prompts are read in one row. A GPU computes padding faster than it launches what packs need."""
        return self.model.device.type == "cpu" and keeps_every_token(prefix)

    def _prefill(self, rows: Sequence[Row], prefix: DynamicCache) -> BatchCache:
        """The keys and values of the prompts of `rows`, which take their first tokens."""
        prompts, places = distinct([row.prompt for row in rows])
        if self._packs(prefix):
            batch, logits = read_packed(self.model, prompts, prefix)
        else:
            batch, logits = read_prompts(self.model, prompts, prefix, self.pad_token_id)
        if len(prompts) < len(rows):
            batch.keep(places)
            logits = logits[places]
        self._take(rows, logits, Likeliest.of(logits))
        return batch

    def _step(self) -> list[Row]:
        """Have all rows take a token, or several where drafts were right; returns them."""
        assert self.batch
        if self.batch.joinable and len(self.rows) <= DRAFT_ROWS:  # else a refused draft could not be taken back
            for row in self.rows:
                room = min(DRAFT_TOKENS, self.limit - len(row.ids) - 1)
                row.draft = row.guide.forecast(room) if row.guide else []
        fed = pad_left([[row.ids[-1], *row.draft] for row in self.rows], 0)
        self.batch.extend(fed["attention_mask"])
        width = fed["input_ids"].shape[1]
        logits = self.batch.run(self.model, fed["input_ids"], width)
        refused = self._take(self.rows, logits, Likeliest.of(logits))
        for row in self.rows:
            row.draft = []
        self.batch.take_back([width - 1 if row.done else count for row, count in zip(self.rows, refused, strict=True)])
        return self.rows

    def _take(self, rows: Sequence[Row], logits: torch.Tensor, likeliest: Likeliest) -> list[int]:
        """Add to each row that is not done the tokens that its `logits` (row, column, vocabulary) give: its draft, as
        far as the model would have written it itself, and one more. Returns how many tokens of each draft were refused.
        Raises `NerError` if a probability is not finite.

        Rows that draw, and those that may not take what they chose first, choose together.
        """
        refused = [0] * len(rows)
        writing = [(i, row) for i, row in enumerate(rows) if not row.done]
        for column, (tokens, values) in enumerate(zip(likeliest.tokens, likeliest.logprobs, strict=True)):
            behind = logits.shape[1] - 1 - column  # so many tokens of a draft stand behind this column
            here = [(i, row) for i, row in writing if len(row.draft) >= behind]
            if not all(math.isfinite(values[i]) for i, _ in here):
                raise not_finite()
            if drawing := [(i, row.draw) for i, row in here if row.draw]:
                places, draws = zip(*drawing, strict=True)
                weights = probabilities(logits[list(places), column], draws)
                likeliest.replace(column, places, sample(weights, [rows[i].random for i in places]), logits)
            if choosing := [i for i, row in here if self.constrained and row.guide and not row.guide.allows(tokens[i])]:
                chosen = self._choose(logits[choosing, column], [rows[i] for i in choosing])
                likeliest.replace(column, choosing, chosen, logits)
            for i, row in here:
                self._add(row, tokens[i], values[i])
                if behind and (row.done or tokens[i] != row.draft[-behind]):
                    refused[i] = behind
                    writing.remove((i, row))
        return refused

    def _choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """The tokens that `rows` take of those that their guides allow: the likeliest, or drawn from what these leave
        of the nucleus; if that is nothing, from the nucleus of what they allow."""
        allowed = [torch.tensor(row.guide.allowed()) for row in rows if row.guide]
        ids = torch.nn.utils.rnn.pad_sequence(allowed, batch_first=True, padding_value=-1).to(logits.device)
        scores = logits.gather(1, ids.clamp_min(0)).masked_fill(ids < 0, -torch.inf)
        columns = scores.argmax(-1)
        if drawing := [(i, row.draw) for i, row in enumerate(rows) if row.draw]:
            places, draws = map(list, zip(*drawing, strict=True))
            left = probabilities(logits[places], draws).gather(1, ids[places].clamp_min(0))
            left = left.masked_fill(ids[places] < 0, 0)
            weights = torch.where(left.any(-1, keepdim=True), left, probabilities(scores[places], draws))
            columns[places] = sample(weights, [rows[i].random for i in places])
        return ids.gather(1, columns[:, None])[:, 0]

    def _add(self, row: Row, token: int, logprob: float) -> None:
        """Have `row` and its guide take `token`."""
        row.logprobs.append(logprob)
        if row.guide:
            try:
                row.guide.advance(token)
            except ValueError:
                if self.constrained:
                    raise
                row.guide = None  # the model writes something else than was forecast
        row.finished = token in self.ends
        if not row.finished:
            row.ids.append(token)
            row.finished = self.constrained and row.guide is not None and row.guide.closed
        row.done = row.finished or len(row.ids) == self.limit


def not_finite() -> NerError:
    remedy = "use an earlier checkpoint, or train with a lower learning rate"
    return NerError("the model's logits are not finite numbers", remedy=remedy)


def find_likeliest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of `logits` (row, column, vocabulary) the likeliest tokens, their log-probabilities, and the normalizers."""
    logits = logits.float()
    best, normalizers = logits.max(-1), logits.logsumexp(-1)
    return best.indices, best.values - normalizers, normalizers
