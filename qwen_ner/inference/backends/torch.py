"""Prompts to completions: the only place where a model writes, for training's evaluation, `evaluate` and `predict`.

In: a causal LM and prompts as token ids. Out: the new ids of each, in order, with the probability that the model gave
each. Knows nothing of labels, JSON and recipes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch

from ...entities import NerError
from .oom import out_of_memory
from .prefix_cache import PrefixCache, keeps_every_token, repeated

if TYPE_CHECKING:
    from transformers import DynamicCache, GenerationConfig, PreTrainedModel

log = logging.getLogger(__name__)

BATCH_TOKENS = 16_384
"""Tokens that a batch may come to, prompts and answers: some 400 MB of keys and values of a 0.5B in float32."""


@dataclass(frozen=True)
class Generated:
    """Completions in the order of their prompts.

    `ids` without the end token, whether each was `finished` by one, and the natural logarithm of the probability that
    the model gave each emitted token: `logprobs[i]` is as long as `ids[i]`, and one longer where the model wrote the
    end itself (where a constraint left nothing else, the model was not asked). `batch_tokens` is the budget asked for,
    or the lower one that the memory held. `constraints` are those handed in, as they stood behind the last tokens.
    """

    ids: list[list[int]]
    finished: list[bool]
    logprobs: list[list[float]]
    batch_tokens: int = BATCH_TOKENS
    constraints: list[Constraint] = field(default_factory=list)


DRAFT_ROWS = 8
"""Up to so many rows a batch is drafted for. A step of few rows waits for the weights to be read, so that more tokens a
row cost next to nothing; one of many rows computes, and what is drafted in vain is paid for."""

DRAFT_TOKENS = 6


class Constraint(Protocol):
    """What the tokens of one completion may be; it is told of each that was taken.

    `forecast` are tokens that are likely to follow, at most `limit`: they are tried in one pass, and those that the
    model would have written itself are taken. `closed` says that only an end token may follow: it is taken without
    asking the model. `advance` raises `ValueError` for a token that may not come. A shallow copy goes its own way.
    `unmeant` are the pairs of what was written that are there only because of the constraint.
    """

    @property
    def closed(self) -> bool: ...
    @property
    def unmeant(self) -> Set[tuple[str, str]]: ...

    def allows(self, token: int) -> bool: ...
    def allowed(self) -> list[int]: ...
    def advance(self, token: int) -> None: ...
    def forecast(self, limit: int) -> list[int]: ...


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
    drafts: Sequence[Constraint] | None = None,
    temperature: float = 0.0,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> Generated:
    """Greedy completions of `prompts`: the ids of transformers' own greedy `generate`, without any penalty.

    With `constraints`, one a prompt, the likeliest of the tokens that they allow; the log-probabilities are those that
    the model gave among all tokens. `drafts` forecast what is written without binding it; `constraints` do both. With a
    `temperature` tokens are drawn, by torch's global generator.

    What all prompts begin with goes through the model once; its keys and values stand before every batch, and before
    those of later calls where `prefix` is handed in again. Prompts are sorted by length and taken in batches of
    `batch_tokens` (a longer prompt alone); a finished row leaves its batch. One that runs out of memory is tried again
    by halves, and so are those behind it. `on_rows` is told how many rows each batch had. The model is used as it
    stands: in training mode its dropout would act. Raises `NerError` where the memory does not hold a single row.
    """
    result = Generated([[] for _ in prompts], [False] * len(prompts), [[] for _ in prompts])
    if not prompts:
        return replace(result, batch_tokens=batch_tokens)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a plan for each new shape, and every step is one
    ends = set(end_token_ids)
    before = (prefix or PrefixCache()).common(model, prompts)
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]
    waiting = sorted(range(len(prompts)), key=lambda i: -lengths[i])
    last = list(constraints or ())
    while waiting:
        rows = waiting[: max(1, batch_tokens // lengths[waiting[0]])]
        own = pad_left([prompts[i][before.get_seq_length() :] for i in rows], pad_token_id)
        bound = [copy.copy(constraints[i]) for i in rows] if constraints else None
        guides = bound if drafts is None or drafts is constraints else [copy.copy(drafts[i]) for i in rows]
        writer = _Writer(model, ends, max_new_tokens, temperature, bound, guides)
        written = _unless_memory_ends(writer, before, own)
        if written is None:
            if len(rows) == 1:
                raise NerError(
                    f"a prompt of {len(prompts[rows[0]])} tokens and its answer of up to {max_new_tokens} do not fit "
                    "into the memory; use a smaller model, a shorter text, or a device with more memory"
                )
            batch_tokens = len(rows) // 2 * lengths[rows[0]]
            log.warning(
                "A batch of %d rows ran out of memory; going on with up to %d tokens a batch.", len(rows), batch_tokens
            )
            continue
        for position, token, logprob in written:
            row = rows[position]
            if logprob is not None:
                result.logprobs[row].append(logprob)
            if token in ends:
                result.finished[row] = True
            else:
                result.ids[row].append(token)
        for row, constraint in zip(rows, bound or (), strict=False):
            last[row] = constraint
        on_rows(len(rows))
        waiting = waiting[len(rows) :]
    return replace(result, batch_tokens=batch_tokens, constraints=last)


def _unless_memory_ends(
    writer: _Writer, before: DynamicCache, own: dict[str, torch.Tensor]
) -> list[tuple[int, int, float | None]] | None:
    """What `writer` writes; None, with what it held freed, where the memory does not do."""
    from accelerate.utils.memory import clear_device_cache

    try:
        return list(writer.write(before, own))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    clear_device_cache(garbage_collection=True)  # here, where the error no longer holds the batch's tensors
    return None


class _Writer:
    """Writes the completions of one batch, step after step."""

    def __init__(
        self,
        model: PreTrainedModel,
        ends: set[int],
        max_new_tokens: int,
        temperature: float,
        constraints: Sequence[Constraint] | None,
        guides: Sequence[Constraint] | None,
    ) -> None:
        self.model, self.ends, self.temperature = model, ends, temperature
        self.constraints = constraints
        self.guides: list[Constraint | None] | None = list(guides) if guides and not temperature else None
        self.max_new_tokens = max_new_tokens

    def write(self, before: DynamicCache, own: dict[str, torch.Tensor]) -> Iterator[tuple[int, int, float | None]]:
        """(row of the batch, token, its log-probability) for each token emitted; `own` are the prompts behind `before`.

        The log-probability is None for an end token that the model was not asked for.

        A step feeds to each row the token it took last and a draft, padded on the left. Columns of the cache that hold
        padding, or drafts that were refused, are masked; positions are counted as if they were not there.
        """
        device = self.model.device
        ids, real = own["input_ids"].to(device), own["attention_mask"].to(device)
        shared = before.get_seq_length()
        mask = torch.nn.functional.pad(real, (shared, 0), value=1)
        positions = shared + (real.cumsum(-1) - 1).clamp_min(0)
        cache = repeated(before, len(ids), self.model)
        if not keeps_every_token(cache):
            self.guides = None  # a refused draft could not be taken back
        rows = list(range(len(ids)))
        at = (positions[:, -1] + 1).tolist()  # the position of each row's next token
        written = [0] * len(ids)
        drafted: list[list[int]] = [[] for _ in rows]
        while rows:
            checked = 1 + max(map(len, drafted))
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=checked,
            )
            logits = out.logits.float()
            likeliest, normalizers = logits.argmax(-1).tolist(), logits.logsumexp(-1)
            going: list[int] = []
            taken: list[int] = []
            refused: list[int] = []
            emitted: list[tuple[int, int, torch.Tensor]] = []
            ended: list[int] = []
            for i, row in enumerate(rows):
                draft = drafted[i]
                for k in range(len(draft) + 1):
                    column = checked - 1 - len(draft) + k
                    token = self._choose(row, logits[i, column], likeliest[i][column])
                    emitted.append((row, token, logits[i, column, token] - normalizers[i, column]))
                    written[row] += 1
                    at[row] += 1
                    closed = self.constraints is not None and self.constraints[row].closed
                    finished = token in self.ends or closed or written[row] == self.max_new_tokens
                    if finished or k == len(draft) or token != draft[k]:
                        break
                if closed:
                    ended.append(row)
                if not finished:
                    going.append(i)
                    taken.append(token)
                    refused.append(len(draft) - k)
            logprobs = torch.stack([logprob for *_, logprob in emitted]).tolist()
            yield from ((row, token, value) for (row, token, _), value in zip(emitted, logprobs, strict=True))
            yield from ((row, next(iter(self.ends)), None) for row in ended)
            if len(going) < len(rows):
                kept = torch.tensor(going, dtype=torch.long, device=device)
                cache.batch_select_indices(kept)
                mask, rows = mask[kept], [rows[i] for i in going]
            if not rows:
                return
            for i, count in enumerate(refused):
                if count:
                    mask[i, -count:] = 0
            if cut := min(refused):
                cache.crop(-cut)
                mask = mask[:, :-cut]
            drafted = self._drafts(rows, written)
            fed = [[token, *draft] for token, draft in zip(taken, drafted, strict=True)]
            batch = {name: value.to(device) for name, value in pad_left(fed, 0).items()}
            ids, mask = batch["input_ids"], torch.cat([mask, batch["attention_mask"]], dim=1)
            last = [at[row] - 1 + len(draft) for row, draft in zip(rows, drafted, strict=True)]
            positions = (
                torch.tensor(last, device=device)[:, None] - torch.arange(ids.shape[1] - 1, -1, -1, device=device)
            ).clamp_min(0)

    def _choose(self, row: int, logits: torch.Tensor, likeliest: int) -> int:
        """The next token of `row` from its `logits` (vocabulary,); what forecasts it is told."""
        constraint = self.constraints[row] if self.constraints else None
        token = likeliest
        if self.temperature:
            # The set of allowed tokens is asked for only where it is needed.
            allowed = constraint.allowed() if constraint else None
            scores = (logits if allowed is None else logits[allowed]) / self.temperature
            drawn = int(torch.multinomial(scores.softmax(-1), 1))
            token = drawn if allowed is None else allowed[drawn]
        elif constraint and not constraint.allows(token):
            allowed = constraint.allowed()
            token = allowed[int(logits[allowed].argmax())]
        if constraint:
            constraint.advance(token)
        elif self.guides and (guide := self.guides[row]):
            try:
                guide.advance(token)
            except ValueError:
                self.guides[row] = None  # the model writes something else than was foreseen
        return token

    def _drafts(self, rows: Sequence[int], written: Sequence[int]) -> list[list[int]]:
        """What is likely to follow for each of `rows`; nothing where they are too many for a draft to pay."""
        if not self.guides or len(rows) > DRAFT_ROWS:
            return [[] for _ in rows]
        drafts = []
        for row in rows:
            guide, room = self.guides[row], self.max_new_tokens - written[row] - 1
            drafts.append(guide.forecast(min(DRAFT_TOKENS, room)) if guide else [])
        return drafts


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
