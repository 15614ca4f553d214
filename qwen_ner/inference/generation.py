"""Prompts to completions: the only place where a model writes, for training's evaluation, `evaluate` and `predict`.

In: a causal LM and prompts as token ids. Out: the new ids of each, in order. Knows nothing of labels, JSON and recipes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel


@dataclass(frozen=True)
class Generated:
    """Completions in the order of their prompts: `ids` without the end token, and whether it was `finished` by one."""

    ids: list[list[int]]
    finished: list[bool]


def neutral_generation_config(end_token_ids: Sequence[int], pad_token_id: int, max_new_tokens: int) -> GenerationConfig:
    """Greedy, without penalties, stopping at the right tokens.

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
    batch_size: int = 32,
    progress: bool = False,
) -> Generated:
    """Greedy completions of `prompts`, `batch_size` at a time, longest first.

    Batches are of about one length, so that little is padded (on the left); the order of the results is that of the
    prompts. `progress` shows a bar on a terminal.
    """
    from tqdm.auto import tqdm

    config = neutral_generation_config(end_token_ids, pad_token_id, max_new_tokens)
    # `generate` fills what the given config leaves None from the model's; ours replaces it for the time being.
    theirs, model.generation_config = model.generation_config, config
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    ids: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    ends = set(end_token_ids)
    try:
        with tqdm(total=len(prompts), desc="Generating", unit="row", disable=None if progress else True) as bar:
            for at in range(0, len(order), batch_size):
                rows = order[at : at + batch_size]
                batch = pad_left([prompts[i] for i in rows], pad_token_id)
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                out = model.generate(**batch, generation_config=config)
                for i, new in zip(rows, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                    ids[i], finished[i] = until_end(new, ends)
                bar.update(len(rows))
    finally:
        model.generation_config = theirs
    return Generated(ids, finished)


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
