"""The keys and values of a batch whose rows come and go.

In: prompts, padded on the left, and what follows them. Out: one cache for all rows, the mask of its columns, and the
logits of what was read. Knows nothing of what the rows write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from .prefix_cache import keeps_every_token, repeat_cache

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel


@dataclass(eq=False)
class BatchCache:
    """Keys and values of rows, and the `mask` (row, column) of what they see: neither padding nor refused drafts.

    `first` is the first column of each row, known here so that no device is waited for.
    """

    cache: DynamicCache
    mask: torch.Tensor
    first: list[int]

    @property
    def joinable(self) -> bool:
        return keeps_every_token(self.cache)

    @property
    def positions(self) -> torch.Tensor:
        """The position of each column, counted as if masked ones were not there."""
        return (self.mask.cumsum(-1) - 1).clamp_min(0)

    def extend(self, mask: torch.Tensor) -> None:
        """Make columns of `mask` (row, new column) ready for what the model reads next."""
        self.mask = torch.cat([self.mask, mask.to(self.mask.device, non_blocking=True)], dim=1)

    def run(self, model: PreTrainedModel, ids: torch.Tensor, judged: int) -> torch.Tensor:
        """Logits (row, column, vocabulary) of the last `judged` of `ids`, which `model` reads into the last columns."""
        out = model(
            input_ids=ids.to(model.device, non_blocking=True),  # launch, do not wait
            attention_mask=self.mask,
            position_ids=self.positions[:, -ids.shape[1] :],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=judged,
        )
        return out.logits.float()

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, and the columns that only others used. A row that comes twice is copied."""
        self.first = [self.first[i] for i in rows]
        index = torch.tensor(rows).to(self.mask.device, non_blocking=True)
        if not self.joinable:
            self.mask = self.mask[index]
            self.cache.batch_select_indices(index)
            return
        unused = min(self.first)
        self.first = [column - unused for column in self.first]
        self.mask = self.mask[index, unused:]
        for layer in self.cache.layers:
            layer.keys, layer.values = (
                states[:, :, unused:].index_select(0, index) for states in (layer.keys, layer.values)
            )

    def take_back(self, counts: Sequence[int]) -> None:
        """Mask the last columns of each row, so many; those that are masked for all are dropped."""
        for i, count in enumerate(counts):
            if count:
                self.mask[i, -count:] = 0
        if cut := min(counts):
            self.cache.crop(-cut)
            self.mask = self.mask[:, :-cut]


def read_prompts(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], prefix: DynamicCache, pad_token_id: int
) -> tuple[BatchCache, torch.Tensor]:
    """The keys and values of `prompts`, which all begin with `prefix`, and the logits (row, 1, vocabulary) behind."""
    shared = prefix.get_seq_length()
    own = pad_left([prompt[shared:] for prompt in prompts], pad_token_id)
    mask = pad(own["attention_mask"], (shared, 0), value=1)
    first = [0] * len(prompts) if shared else (1 - mask).sum(-1).tolist()
    batch = BatchCache(repeat_cache(prefix, len(prompts), model), mask.to(model.device), first)
    return batch, batch.run(model, own["input_ids"], 1)


def read_packed(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], prefix: DynamicCache
) -> tuple[BatchCache, torch.Tensor]:
    """As `read_prompts`, without padding: the model reads all prompts in one row, in which each token sees `prefix` and
    its own prompt. The cache must be `joinable`.

    Attention takes all tokens of the row for each, so a row should be no longer than some hundred.
    """
    shared, device = prefix.get_seq_length(), model.device
    own = [prompt[shared:] for prompt in prompts]
    lengths = torch.tensor([len(tokens) for tokens in own])
    ends = lengths.cumsum(0)
    starts = ends - lengths
    prompt = torch.arange(len(own)).repeat_interleave(lengths)
    place = torch.arange(int(ends[-1])) - starts[prompt]
    unseen = (prompt[:, None] != prompt) | (place[:, None] < place)
    mask = torch.zeros(unseen.shape, dtype=model.dtype).masked_fill(unseen, torch.finfo(model.dtype).min)
    cache = repeat_cache(prefix, 1, model)
    out = model(
        input_ids=torch.tensor([[token for tokens in own for token in tokens]]).to(device),
        attention_mask=pad(mask, (shared, 0))[None, None].to(device),
        position_ids=(shared + place)[None].to(device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=(ends - 1).to(device),
    )
    padding = int(lengths.max()) - lengths
    columns = torch.arange(int(lengths.max())) - padding[:, None]
    masked = columns < 0
    columns = (shared + starts[:, None] + columns).masked_fill(masked, 0)
    columns = torch.cat([torch.arange(shared).expand(len(own), -1), columns], 1).to(device)
    for layer in cache.layers:
        layer.keys, layer.values = (
            states[0][:, columns].transpose(0, 1).contiguous() for states in (layer.keys, layer.values)
        )
    seen = pad((~masked).long(), (shared, 0), value=1).to(device)
    first = [0] * len(own) if shared else padding.tolist()
    return BatchCache(cache, seen, first), out.logits[0][:, None].float()


def join(parts: Sequence[BatchCache]) -> BatchCache:
    """One cache for the rows of all `parts`, the first of which becomes it; several must be `joinable`."""
    whole, *others = parts
    if not others:
        return whole
    width = max(part.mask.shape[1] for part in parts)
    missing = [width - part.mask.shape[1] for part in parts]
    for layer, *its in zip(*(part.cache.layers for part in parts), strict=True):
        for name in ("keys", "values"):
            states = [getattr(one, name) for one in (layer, *its)]
            padded = [pad(one, (0, 0, count, 0)) for one, count in zip(states, missing, strict=True)]
            setattr(layer, name, torch.cat(padded))
    whole.mask = torch.cat([pad(part.mask, (count, 0)) for part, count in zip(parts, missing, strict=True)])
    whole.first = [column + count for part, count in zip(parts, missing, strict=True) for column in part.first]
    return whole


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
    ids, padded = [torch.tensor(one) for one in prompts], partial(pad_sequence, batch_first=True, padding_side="left")
    mask = padded([torch.ones_like(row) for row in ids])
    return {"input_ids": padded(ids, padding_value=pad_token_id), "attention_mask": mask}
