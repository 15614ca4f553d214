"""The keys and values of a batch whose rows come and go.

In: prompts, padded on the left, and what follows them. Out: one cache for all rows, the mask of its columns, and the
logits of what was read. Knows nothing of what the rows write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from .prefix_cache import keeps_every_token, repeat_cache


@dataclass(eq=False)
class BatchCache:
    """Keys and values of rows, and the `mask` (row, column) of what they see: neither padding nor refused drafts."""

    cache: DynamicCache
    mask: torch.Tensor

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
        index = torch.tensor(rows).to(self.mask.device, non_blocking=True)
        self.mask = self.mask[index]
        if not self.joinable:
            self.cache.batch_select_indices(index)
            return
        unused = int(self.mask.any(0).int().argmax())
        self.mask = self.mask[:, unused:]
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
    batch = BatchCache(repeat_cache(prefix, len(prompts), model), mask.to(model.device))
    return batch, batch.run(model, own["input_ids"], 1)


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
    return whole


def pad_left(prompts: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of shape (prompts, longest), padded on the left, as generation needs it.

    >>> pad_left([[5, 6], [7]], pad_token_id=0)["input_ids"].tolist()
    [[5, 6], [0, 7]]
    """
    longest = max(map(len, prompts))
    padding = torch.tensor([longest - len(prompt) for prompt in prompts])
    ids = torch.tensor([[*[pad_token_id] * (longest - len(prompt)), *prompt] for prompt in prompts])
    return {"input_ids": ids, "attention_mask": (torch.arange(longest) >= padding[:, None]).long()}
