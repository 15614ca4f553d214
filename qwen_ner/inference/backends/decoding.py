"""Greedy decoding of one batch, a step at a time, with drafts.

In: a causal LM, rows of prompts behind a common prefix, and what each answer may or is likely to be. Out: the rows,
completed. Knows nothing of how batches are made; running out of memory is for its caller to handle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch

from ...entities import NerError
from .base import Constraint
from .prefix_cache import keeps_every_token, repeat_cache

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

DRAFT_ROWS = 8
"""Batches of up to this many rows are drafted. A step of few rows waits for the weights to be read, so more tokens in
it cost next to nothing; a step of many rows computes, and refused drafts are wasted work."""

DRAFT_TOKENS = 6


@dataclass(eq=False)
class Row:
    """A prompt and its answer while it is written; `guide` is None once the answer has left what it forecasts."""

    prompt: Sequence[int]
    guide: Constraint | None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False
    draft: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class BatchWriter:
    """Writes the answers of one batch, step after step."""

    model: PreTrainedModel
    ends: Sequence[int]
    limit: int
    temperature: float
    constrained: bool

    def write(self, rows: list[Row], own: dict[str, torch.Tensor], prefix: DynamicCache) -> None:
        """Complete `rows`; `own` are their prompts behind `prefix`, padded on the left.

        A step feeds each row the token that it took last and a draft, padded on the left. Columns of the cache that
        hold padding or refused drafts are masked, and positions are counted as if they were not there.
        """
        device, shared = self.model.device, prefix.get_seq_length()
        ids, mask = own["input_ids"].to(device), own["attention_mask"].to(device)
        positions = shared + (mask.cumsum(-1) - 1).clamp_min(0)
        mask = torch.nn.functional.pad(mask, (shared, 0), value=1)
        cache = repeat_cache(prefix, len(rows), self.model)
        drafting = keeps_every_token(cache) and not self.temperature  # else a refused draft could not be taken back
        while True:
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1 + max(len(row.draft) for row in rows),
            )
            refused = self._take(rows, out.logits.float())
            going = [i for i, row in enumerate(rows) if not self._done(row)]
            if not going:
                return
            if len(going) < len(rows):
                kept = torch.tensor(going, device=device)
                cache.batch_select_indices(kept)
                mask, rows, refused = mask[kept], [rows[i] for i in going], [refused[i] for i in going]
            for i, count in enumerate(refused):
                if count:
                    mask[i, -count:] = 0
            if cut := min(refused):
                cache.crop(-cut)
                mask = mask[:, :-cut]
            for row in rows:
                row.draft = []
                if drafting and row.guide and len(rows) <= DRAFT_ROWS:
                    row.draft = row.guide.forecast(min(DRAFT_TOKENS, self.limit - len(row.ids) - 1))
            fed = pad_left([[row.ids[-1], *row.draft] for row in rows], 0)
            ids, mask = fed["input_ids"].to(device), torch.cat([mask, fed["attention_mask"].to(device)], dim=1)
            last = torch.tensor([len(row.prompt) + len(row.ids) - 1 + len(row.draft) for row in rows], device=device)
            positions = (last[:, None] - torch.arange(ids.shape[1] - 1, -1, -1, device=device)).clamp_min(0)

    def _done(self, row: Row) -> bool:
        return row.finished or len(row.ids) == self.limit

    def _take(self, rows: Sequence[Row], logits: torch.Tensor) -> list[int]:
        """Add to each row the tokens that its `logits` (row, column, vocabulary) give: its draft, as far as the model
        would have written it itself, and one more. Returns how many tokens of each draft were refused. Raises
        `NerError` if a probability is not finite."""
        likeliest, normalizers = logits.argmax(-1).tolist(), logits.logsumexp(-1)
        taken: list[tuple[Row, torch.Tensor]] = []
        refused: list[int] = []
        for i, row in enumerate(rows):
            first = logits.shape[1] - 1 - len(row.draft)
            for k, drafted in enumerate([*row.draft, None]):
                token = self._choose(row, logits[i, first + k], likeliest[i][first + k])
                taken.append((row, logits[i, first + k, token] - normalizers[i, first + k]))
                row.finished = token in self.ends
                if not row.finished:
                    row.ids.append(token)
                    row.finished = self.constrained and row.guide is not None and row.guide.closed
                if self._done(row) or token != drafted:
                    break
            refused.append(len(row.draft) - k)
        values = torch.stack([logprob for _, logprob in taken]).tolist()  # one transfer a step
        if not all(map(math.isfinite, values)):
            remedy = "use an earlier checkpoint, or train with a lower learning rate"
            raise NerError("the model's logits are not finite numbers", remedy=remedy)
        for (row, _), value in zip(taken, values, strict=True):
            row.logprobs.append(value)
        return refused

    def _choose(self, row: Row, logits: torch.Tensor, likeliest: int) -> int:
        """The next token of `row` from its `logits` (vocabulary,); its guide is advanced."""
        token, guide = likeliest, row.guide
        allowed = None  # all: the set is asked for only where it is needed
        if guide and self.constrained and (self.temperature or not guide.allows(token)):
            allowed = guide.allowed()
            logits = logits[allowed]
        if self.temperature:
            token = int(torch.multinomial((logits / self.temperature).softmax(-1), 1))
        elif allowed is not None:
            token = int(logits.argmax())
        if allowed is not None:
            token = allowed[token]
        if guide:
            try:
                guide.advance(token)
            except ValueError:
                if self.constrained:
                    raise
                row.guide = None  # the model writes something else than was forecast
        return token


def pad_left(prompts: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of shape (prompts, longest), padded on the left, as generation needs it.

    >>> pad_left([[5, 6], [7]], pad_token_id=0)["input_ids"].tolist()
    [[5, 6], [0, 7]]
    """
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
    rows = [torch.tensor(prompt, dtype=torch.long) for prompt in prompts]
    mask = pad([torch.ones_like(row) for row in rows])
    return {"input_ids": pad(rows, padding_value=pad_token_id), "attention_mask": mask}
