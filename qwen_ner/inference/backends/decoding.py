"""Greedy or drawn decoding of one batch, a step at a time, with drafts.

In: a causal LM, rows of prompts behind a common prefix, and what each answer may or is likely to be. Out: the rows,
completed. Knows nothing of how batches are made; running out of memory is for its caller to handle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import torch

from ...entities import NerError
from .base import Constraint, Draw
from .drawing import probabilities, sample
from .prefix_cache import keeps_every_token, repeat_cache

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

DRAFT_ROWS = 8
"""Batches of up to this many rows are drafted. A step of few rows waits for the weights to be read, so more tokens in
it cost next to nothing; a step of many rows computes, and refused drafts are wasted work."""

DRAFT_TOKENS = 6


@dataclass(eq=False)
class Row:
    """Prompt `number` and its answer while it is written: `done` when `finished` or at the limit.

    `guide` is None once the answer has left what it forecasts. With a `draw` its tokens are drawn by numbers from its
    own `random`, so that other rows and drafts change nothing.
    """

    number: int
    prompt: Sequence[int]
    guide: Constraint | None
    draw: Draw | None = None
    random: Random = field(init=False, repr=False)
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False
    done: bool = False
    draft: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.draw.seed if self.draw else 0)


class Judged(NamedTuple):
    """What the host knows of logits: the likeliest token of each row and its log-probability, by column.

    A logit less its normalizer, which stays on the device as (row, column), is a log-probability.
    """

    likeliest: list[list[int]]
    logprobs: list[list[float]]
    normalizers: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor) -> Judged:
        likeliest, logprobs, normalizers = judge(logits)
        return cls(likeliest.T.tolist(), logprobs.T.tolist(), normalizers)

    def replace(self, column: int, rows: Sequence[int], tokens: torch.Tensor, logits: torch.Tensor) -> None:
        """Put `tokens`, one for each of `rows`, with their log-probabilities in the place of the likeliest."""
        gains = logits[list(rows), column, tokens].float() - self.normalizers[list(rows), column]
        for i, token, gain in zip(rows, tokens.tolist(), gains.tolist(), strict=True):
            self.likeliest[column][i], self.logprobs[column][i] = token, gain


@dataclass(frozen=True)
class BatchWriter:
    """Writes the answers of one batch, step after step."""

    model: PreTrainedModel
    ends: Sequence[int]
    pad_token_id: int
    limit: int
    constrained: bool

    def length(self, row: Row) -> int:
        """The tokens that `row` takes, prompt and answer."""
        return len(row.prompt) + self.limit

    def together(self, waiting: Sequence[Row], budget: int) -> int:
        """How many rows of `waiting`, which come longest first, take `budget` tokens; a longer one goes alone."""
        return min(len(waiting), max(1, budget // self.length(waiting[0])))

    def write(self, waiting: Sequence[Row], together: int, prefix: DynamicCache) -> Iterator[list[Row]]:
        """Complete some of `waiting`, so many `together`, whose prompts begin with `prefix`. Yields the completed ones.

        A step feeds each row the token that it took last and a draft, padded on the left. Columns of the cache that
        hold padding or refused drafts are masked, and positions are counted as if they were not there. Equal prompts
        are read once.
        """
        rows = all_rows = list(waiting[:together])
        prompts, places = distinct([row.prompt for row in rows])
        own = pad_left([prompt[prefix.get_seq_length() :] for prompt in prompts], self.pad_token_id)
        device, shared = self.model.device, prefix.get_seq_length()
        ids, mask = own["input_ids"].to(device), own["attention_mask"].to(device)
        mask = torch.nn.functional.pad(mask, (shared, 0), value=1)
        cache = repeat_cache(prefix, len(prompts), self.model)
        drafting = keeps_every_token(cache)  # else a refused draft could not be taken back
        judged = 1  # columns: what a row takes, and the draft behind it
        while True:
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1)[:, -ids.shape[1] :] - 1).clamp_min(0),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=judged,
            )
            logits = out.logits.float()
            if len(logits) < len(rows):  # a row for each of equal prompts
                copies = torch.tensor(places).to(device, non_blocking=True)
                cache.batch_select_indices(copies)
                mask, logits = mask[copies], logits[copies]
            refused = self._take(rows, logits, Judged.of(logits))
            going = [i for i, row in enumerate(rows) if not row.done]
            if not going:
                break
            if len(going) < len(rows):
                kept = torch.tensor(going).to(device, non_blocking=True)
                cache.batch_select_indices(kept)
                mask, rows, refused = mask[kept], [rows[i] for i in going], [refused[i] for i in going]
            for i, count in enumerate(refused):
                if count:
                    mask[i, -count:] = 0
            if cut := min(refused):
                cache.crop(-cut)
                mask = mask[:, :-cut]
            if drafting and len(rows) <= DRAFT_ROWS:
                for row in rows:
                    room = min(DRAFT_TOKENS, self.limit - len(row.ids) - 1)
                    row.draft = row.guide.forecast(room) if row.guide else []
                fed = pad_left([[row.ids[-1], *row.draft] for row in rows], 0)
                ids, mask = fed["input_ids"].to(device), torch.cat([mask, fed["attention_mask"].to(device)], dim=1)
            else:
                ids = torch.tensor([row.ids[-1:] for row in rows]).to(device, non_blocking=True)  # launch, do not wait
                mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            judged = ids.shape[1]
        yield all_rows

    def _take(self, rows: Sequence[Row], logits: torch.Tensor, judged: Judged) -> list[int]:
        """Add to each row that is not done the tokens that its `logits` (row, column, vocabulary) give: its draft, as
        far as the model would have written it itself, and one more. Returns how many tokens of each draft were refused.
        Raises `NerError` if a probability is not finite.

        Rows that draw, and those that may not take what they chose first, choose together.
        """
        refused = [0] * len(rows)
        writing = [(i, row) for i, row in enumerate(rows) if not row.done]
        for column, (tokens, values) in enumerate(zip(judged.likeliest, judged.logprobs, strict=True)):
            behind = logits.shape[1] - 1 - column  # so many tokens of a draft stand behind this column
            here = [(i, row) for i, row in writing if len(row.draft) >= behind]
            if not all(math.isfinite(values[i]) for i, _ in here):
                remedy = "use an earlier checkpoint, or train with a lower learning rate"
                raise NerError("the model's logits are not finite numbers", remedy=remedy)
            if drawing := [(i, row.draw) for i, row in here if row.draw]:
                places, draws = zip(*drawing, strict=True)
                weights = probabilities(logits[list(places), column], draws)
                judged.replace(column, places, sample(weights, [rows[i].random for i in places]), logits)
            if choosing := [i for i, row in here if not self._allows(row, tokens[i])]:
                chosen = self._choose(logits[choosing, column], [rows[i] for i in choosing])
                judged.replace(column, choosing, chosen, logits)
            for i, row in here:
                self._add(row, tokens[i], values[i])
                if behind and (row.done or tokens[i] != row.draft[-behind]):
                    refused[i] = behind
                    writing.remove((i, row))
        return refused

    def _allows(self, row: Row, token: int) -> bool:
        return not self.constrained or row.guide is None or row.guide.allows(token)

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


def judge(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of `logits` (row, column, vocabulary) the likeliest tokens, their log-probabilities, and the normalizers."""
    logits = logits.float()
    best, normalizers = logits.max(-1), logits.logsumexp(-1)
    return best.indices, best.values - normalizers, normalizers


def distinct(prompts: Sequence[Sequence[int]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The different ones of `prompts`, and for each prompt the place of its equal among them.

    >>> distinct([[5, 6], [7], [5, 6]])
    ([(5, 6), (7,)], [0, 1, 0])
    """
    found: dict[tuple[int, ...], int] = {}
    places = [found.setdefault(tuple(prompt), len(found)) for prompt in prompts]
    return list(found), places


def pad_left(prompts: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of shape (prompts, longest), padded on the left, as generation needs it.

    >>> pad_left([[5, 6], [7]], pad_token_id=0)["input_ids"].tolist()
    [[5, 6], [0, 7]]
    """
    longest = max(map(len, prompts))
    padding = torch.tensor([longest - len(prompt) for prompt in prompts])
    ids = torch.tensor([[*[pad_token_id] * (longest - len(prompt)), *prompt] for prompt in prompts])
    return {"input_ids": ids, "attention_mask": (torch.arange(longest) >= padding[:, None]).long()}
