"""The common prefix of prompts, computed once: its tokens, and its keys and values.

In: prompts as token ids, a causal LM. Out: the tokens that all of them begin with, and a cache to continue from. Knows
nothing of what is in the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class PrefixCache:
    """Keys and values of the prefix of all prompts so far, for one model whose weights do not change.

    Prompts that begin otherwise shorten it to what is common to all, so that after some calls it is the fixed part of
    the prompt. It stays empty for models that do not keep keys and values of every token (linear attention, sliding
    windows).
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.cache: DynamicCache | None = None

    def common(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> DynamicCache:
        """The cache, of batch size 1, of a prefix of all `prompts` that leaves each at least one token of its own."""
        ids = shared_prefix(prompts)
        ids = _common([self.ids, ids]) or ids
        if self.cache is None or ids != self.ids:
            cache = DynamicCache(config=model.config)
            if ids and keeps_every_token(cache):
                tokens = torch.tensor([ids], device=model.device)
                model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self.cache, self.ids = cache, ids[: cache.get_seq_length()]
        return self.cache


def keeps_every_token(cache: DynamicCache) -> bool:
    """Whether all layers keep keys and values of every token, so that the cache can be cropped and continued."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def repeat_cache(before: DynamicCache, rows: int, model: PreTrainedModel) -> DynamicCache:
    """A new cache for a batch of `rows`, each of which begins with `before`."""
    cache = DynamicCache(config=model.config)
    if before.get_seq_length():
        for i, layer in enumerate(before.layers):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), i)
    return cache


def shared_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The longest prefix of all prompts that leaves each at least one token of its own, to predict its answer from.

    >>> shared_prefix([[1, 2, 3], [1, 2, 4]]), shared_prefix([[1, 2]]), shared_prefix([[1], [2]])
    ([1, 2], [1], [])
    """
    return _common(prompts)[: min(map(len, prompts)) - 1]


def _common(sequences: Sequence[Sequence[int]]) -> list[int]:
    # A prefix of the first and the last in lexicographic order is a prefix of all.
    first, last = min(map(list, sequences)), max(map(list, sequences))
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
