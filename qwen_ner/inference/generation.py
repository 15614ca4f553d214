"""Prompts to completions: the only place where a model writes, for training's evaluation, `evaluate` and `predict`.

In: a causal LM and prompts as token ids. Out: the new ids of each, in order, with the probability that the model gave
each. Knows nothing of labels, JSON and recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from transformers import DynamicCache, GenerationConfig, PreTrainedModel

BATCH_TOKENS = 16_384
"""Tokens that a batch may come to, prompts and answers: some 400 MB of keys and values of a 0.5B in float32."""


@dataclass(frozen=True)
class Generated:
    """Completions in the order of their prompts.

    `ids` without the end token, whether each was `finished` by one, and the natural logarithm of the probability that
    the model gave each emitted token: `logprobs[i]` is as long as `ids[i]`, and one longer where the end was emitted.
    """

    ids: list[list[int]]
    finished: list[bool]
    logprobs: list[list[float]]


class Constraint(Protocol):
    """What the tokens of one completion may be; it is told of each that was taken."""

    def allows(self, token: int) -> bool: ...
    def allowed(self) -> list[int]: ...
    def advance(self, token: int) -> None: ...


def neutral_generation_config(end_token_ids: Sequence[int], pad_token_id: int, max_new_tokens: int) -> GenerationConfig:
    """Greedy, without penalties, stopping at the right tokens: what a trained folder ships for other tools.

    Every field is set, because whatever is left None here would be filled from the model's own config: the one that
    Qwen2.5 ships carries a repetition penalty of 1.1, which `do_sample=False` does not switch off and which punishes
    copying the input, the very thing this task asks for.
    """
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        encoder_repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(end_token_ids),
        pad_token_id=pad_token_id,
        use_cache=True,
    )


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_token_ids: Sequence[int],
    pad_token_id: int,
    batch_tokens: int = BATCH_TOKENS,
    prefix: PrefixCache | None = None,
    constraints: Sequence[Constraint] | None = None,
    temperature: float = 0.0,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> Generated:
    """Greedy completions of `prompts`: the ids of transformers' own greedy `generate`, without any penalty.

    With `constraints`, one a prompt, the likeliest of the tokens that they allow; the log-probabilities are those that
    the model gave among all tokens. With a `temperature` tokens are drawn, by torch's global generator.

    What all prompts begin with goes through the model once; its keys and values stand before every batch, and before
    those of later calls where `prefix` is handed in again. Prompts are sorted by length and taken in batches of
    `batch_tokens` (a longer prompt alone); a finished row leaves its batch. `on_rows` is told how many rows each batch
    had. The model is used as it stands: in training mode its dropout would act.
    """
    result = Generated([[] for _ in prompts], [False] * len(prompts), [[] for _ in prompts])
    if not prompts:
        return result
    before = (prefix or PrefixCache()).common(model, prompts)
    for rows in _batches([len(prompt) + max_new_tokens for prompt in prompts], batch_tokens):
        own = pad_left([prompts[i][before.get_seq_length() :] for i in rows], pad_token_id)
        choose = _Choice([constraints[i] for i in rows] if constraints else None, temperature)
        for position, token, logprob in _steps(model, before, own, max_new_tokens, set(end_token_ids), choose):
            row = rows[position]
            result.logprobs[row].append(logprob)
            if token in end_token_ids:
                result.finished[row] = True
            else:
                result.ids[row].append(token)
        on_rows(len(rows))
    return result


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions of `lengths` in batches, longest first: rows × the longest of them ≤ `budget`, and one row at least."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = max(1, budget // lengths[order[0]])
        yield order[:size]
        order = order[size:]


@dataclass(frozen=True)
class _Choice:
    """The next token of each row of a batch."""

    constraints: Sequence[Constraint] | None
    temperature: float

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> list[int]:
        """From `logits` (rows, vocabulary), whose rows are the batch's rows of those numbers."""
        if self.temperature:
            scores = logits / self.temperature
            if self.constraints is None:
                return torch.multinomial(scores.softmax(-1), 1)[:, 0].tolist()
            tokens = []
            for scored, row in zip(scores, rows, strict=True):
                allowed = self.constraints[row].allowed()
                tokens.append(allowed[int(torch.multinomial(scored[allowed].softmax(-1), 1))])
        else:
            tokens = logits.argmax(-1).tolist()
            if self.constraints is None:
                return tokens
            for i, row in enumerate(rows):
                # The set of allowed tokens is asked for only where the likeliest is not in it.
                if not self.constraints[row].allows(tokens[i]):
                    allowed = self.constraints[row].allowed()
                    tokens[i] = allowed[int(logits[i, allowed].argmax())]
        for row, token in zip(rows, tokens, strict=True):
            self.constraints[row].advance(token)
        return tokens


def _steps(
    model: PreTrainedModel,
    before: DynamicCache,
    own: dict[str, torch.Tensor],
    max_new_tokens: int,
    ends: set[int],
    choose: _Choice,
) -> Iterator[tuple[int, int, float]]:
    """(row of the batch, token, its log-probability) for each token emitted, step after step."""
    ids, own_mask = own["input_ids"].to(model.device), own["attention_mask"].to(model.device)
    shared = before.get_seq_length()
    # The padding lies between the shared prefix and a row's own tokens; positions are counted as if it did not.
    mask = torch.nn.functional.pad(own_mask, (shared, 0), value=1)
    positions = shared + (own_mask.cumsum(-1) - 1).clamp_min(0)
    cache = _repeated(before, len(ids), model)
    rows = list(range(len(ids)))
    for _ in range(max_new_tokens):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = out.logits[:, -1].float()
        tokens = choose(logits, rows)
        ids = torch.tensor(tokens, device=logits.device)[:, None]
        logprobs = logits.gather(1, ids)[:, 0] - logits.logsumexp(-1)
        yield from zip(rows, tokens, logprobs.tolist(), strict=True)
        going = [i for i, token in enumerate(tokens) if token not in ends]
        if not going:
            return
        positions = positions[:, -1:] + 1
        if len(going) < len(rows):
            kept = torch.tensor(going, device=ids.device)
            cache.batch_select_indices(kept)
            ids, positions, mask = ids[kept], positions[kept], mask[kept]
            rows = [rows[i] for i in going]
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)


class PrefixCache:
    """Keys and values of what all prompts so far began with, for one model whose weights stay as they are.

    Prompts that begin otherwise shorten it to what is common to all (in a causal model the keys of a shorter prefix are
    those of the longer one, cut); after some calls it is the prompt's fixed part. Models that keep something else than
    keys and values of every token (linear attention, sliding windows) get an empty one.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.cache: DynamicCache | None = None

    def common(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> DynamicCache:
        """The cache, of batch size 1, of a prefix that all `prompts` begin with and none is used up by."""
        shared = shared_prefix(prompts)
        length = common_length(self.ids, shared)
        if self.cache is None or not length:
            self.cache = _prefilled(model, shared)
            self.ids = shared[: self.cache.get_seq_length()]
        elif length < len(self.ids):
            self.cache.crop(length - len(self.ids))
            self.ids = self.ids[:length]
        return self.cache


def _new_cache(model: PreTrainedModel) -> DynamicCache:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def _prefilled(model: PreTrainedModel, ids: Sequence[int]) -> DynamicCache:
    from transformers.cache_utils import DynamicLayer

    cache = _new_cache(model)
    if ids and all(type(layer) is DynamicLayer for layer in cache.layers):
        tokens = torch.tensor([list(ids)], device=model.device)
        model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _repeated(before: DynamicCache, rows: int, model: PreTrainedModel) -> DynamicCache:
    """A cache of its own for a batch of `rows`, each with `before` at its head."""
    cache = _new_cache(model)
    if before.get_seq_length():
        for i, layer in enumerate(before.layers):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), i)
    return cache


def shared_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The longest token prefix of all prompts that leaves each a token of its own, to predict its answer from.

    >>> shared_prefix([[1, 2, 3], [1, 2, 4]]), shared_prefix([[1, 2]]), shared_prefix([[1], [2]])
    ([1, 2], [1], [])
    """
    # What the least and the greatest in lexicographic order share, all share.
    first, last = min(map(list, prompts)), max(map(list, prompts))
    return list(first[: min(common_length(first, last), min(map(len, prompts)) - 1)])


def common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many leading items two sequences have in common.

    >>> common_length([1, 2, 3], [1, 2]), common_length([1], [2])
    (2, 0)
    """
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def until_end(ids: Sequence[int], ends: set[int]) -> tuple[list[int], bool]:
    """The ids before the first end token, and whether there is one.

    >>> until_end([5, 6, 2, 0, 0], {2})
    ([5, 6], True)
    """
    for position, token in enumerate(ids):
        if token in ends:
            return list(ids[:position]), True
    return list(ids), False


def pad_left(prompts: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of shape (prompts, longest), padded on the left, where generation needs it.

    >>> pad_left([[5, 6], [7]], pad_token_id=0)["input_ids"].tolist()
    [[5, 6], [0, 7]]
    """
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        attention_mask[row, longest - len(prompt) :] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}
