"""Rows of token ids to the tensors of a batch.

In: rows of `data.tokenize.build_dataset`. Out: what the model's forward takes for the loss, and for evaluation the
prompts as well. Labels were decided in the data set; a collator only arranges. Knows nothing of recipes and texts.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from ...inference.backends.prefix_cache import shared_prefix
from ...inference.backends.torch import pad_left
from .attention import PREFIX_SHARED

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

SHARING = ("sdpa", PREFIX_SHARED, "eager", "flex_attention")
"""The attention implementations under which examples can share a row."""

IGNORED = -100
"""The label of a position that is not supervised, as torch's cross entropy has it."""


@dataclass(frozen=True)
class PaddedCollator:
    """Prompt and answer side by side, padded on the right to the longest row.

    >>> rows = [{"prompt_ids": [1, 2], "answer_ids": [3, 9]}, {"prompt_ids": [1], "answer_ids": [9]}]
    >>> batch = PaddedCollator(pad_token_id=0)(rows)
    >>> batch["input_ids"].tolist(), batch["labels"].tolist()
    ([[1, 2, 3, 9], [1, 9, 0, 0]], [[-100, -100, 3, 9], [-100, 9, -100, -100]])

    The vocabulary is multiplied only where there is something to predict: `logits_to_keep` (kept,) are the columns
    before a supervised token of any row, `shift_labels` (rows, kept) the tokens to predict there.

    >>> batch["logits_to_keep"].tolist(), batch["shift_labels"].tolist()
    ([0, 1, 2], [[-100, 3, 9], [9, -100, -100]])

    A row with `counted` False stays out of the loss.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["prompt_ids"]) + len(row["answer_ids"]) for row in rows)
        input_ids = torch.full((len(rows), longest), self.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        labels = torch.full_like(input_ids, IGNORED)
        for i, row in enumerate(rows):
            prompt, answer = row["prompt_ids"], row["answer_ids"]
            end = len(prompt) + len(answer)
            input_ids[i, :end] = torch.tensor(prompt + answer)
            attention_mask[i, :end] = 1
            labels[i, len(prompt) : end] = torch.tensor(supervised(row))
        return {"input_ids": input_ids, "attention_mask": attention_mask, **supervision(labels)}


def supervised(row: dict[str, Any]) -> list[int]:
    """The labels of the row's answer: its tokens, or `IGNORED` for a row that is not counted."""
    answer: list[int] = row["answer_ids"]
    return answer if row.get("counted", True) else [IGNORED] * len(answer)


def supervision(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """`labels` (rows, tokens), the columns whose logits are needed to predict them, and what is to be predicted there.

    Columns and not a mask: transformers before 5.21 takes no mask, and a mask costs a GPU a synchronization.
    """
    shifted = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    keep = (shifted != IGNORED).any(0).nonzero()[:, 0]
    return {"labels": labels, "logits_to_keep": keep, "shift_labels": shifted[:, keep]}


@dataclass(frozen=True)
class PrefixSharedCollator:
    """All rows of a batch in one packed row, behind the tokens that all of their prompts begin with.

    The prefix stands there once; every example follows with positions that restart behind it, and sees its own tokens
    causally and the prefix, nothing else. Two short rows, with the prefix [1, 2]:

    >>> rows = [{"prompt_ids": [1, 2, 3], "answer_ids": [4, 9]}, {"prompt_ids": [1, 2, 5], "answer_ids": [9]}]
    >>> batch = PrefixSharedCollator(attention="eager")(rows)
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist()
    ([[1, 2, 3, 4, 9, 5, 9]], [[0, 1, 2, 3, 4, 2, 3]])
    >>> print("\\n".join(str(row) for row in (batch["attention_mask"] == 0)[0, 0].int().tolist()))
    [1, 0, 0, 0, 0, 0, 0]
    [1, 1, 0, 0, 0, 0, 0]
    [1, 1, 1, 0, 0, 0, 0]
    [1, 1, 1, 1, 0, 0, 0]
    [1, 1, 1, 1, 1, 0, 0]
    [1, 1, 0, 0, 0, 1, 0]
    [1, 1, 0, 0, 0, 1, 1]
    >>> batch["logits_to_keep"].tolist(), batch["shift_labels"].tolist()
    ([2, 3, 5], [[4, 9, 9]])

    Loss and gradient are those of the rows one by one. In a causal model the prefix does not see what follows it, so
    its keys and values are the same in every row, and the gradients that reach it add up as they would over the rows.
    Under dropout this holds for each draw of it; the rows then have the prefix's draw in common.
    Preference training shares prompts by the same argument: "Accelerating Direct Preference Optimization with Prefix
    Sharing" (arXiv 2410.20305), "Prefix Grouper: Efficient GRPO Training through Shared-Prefix Forward" (arXiv
    2506.05433).

    Each `attention` wants that mask in its own form. "eager" adds it, as above: 0 and the lowest float32, and memory
    that grows with the square of the row. "flex_attention" takes no tensor of it; `segment` (1, tokens) says whose each
    token is, and `block_mask` makes of it a mask that skips whole blocks of unseen keys. By default no such mask is
    needed: `attention.prefix_shared_attention` attends example by example, and what it reads stands in the batch:

    >>> batch = PrefixSharedCollator()(rows)
    >>> batch["own"].tolist(), batch["place"].tolist()
    ([[2, 3, 4], [5, 6, 0]], [0, 1, 2, 3, 4])
    >>> batch["attention_mask"][0, 0].int().tolist()
    [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    """

    attention: str = PREFIX_SHARED

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        prefix = shared_prefix([row["prompt_ids"] for row in rows])
        own = [row["prompt_ids"][len(prefix) :] + row["answer_ids"] for row in rows]
        lengths = [len(ids) for ids in own]
        behind = [range(len(prefix), len(prefix) + length) for length in lengths]
        labels = [IGNORED] * len(prefix)
        for row, length in zip(rows, lengths, strict=True):
            labels += [IGNORED] * (length - len(row["answer_ids"])) + supervised(row)
        batch = {
            "input_ids": torch.tensor([list(chain(prefix, *own))]),
            "position_ids": torch.tensor([list(chain(range(len(prefix)), *behind))]),
            **supervision(torch.tensor([labels])),
        }
        if self.attention == PREFIX_SHARED:
            return {**batch, **_apart(len(prefix), lengths)}
        segment = torch.repeat_interleave(torch.tensor([len(prefix), *lengths]))[None]  # 0 is the prefix's
        if self.attention == "flex_attention":
            return {**batch, "segment": segment}
        keys, queries = segment[:, None, None, :], segment[:, None, :, None]
        seen = ((keys == 0) | (keys == queries)).tril()
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        return {**batch, "attention_mask": mask}


def _apart(prefix: int, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
    """Where each of the examples stands behind a prefix of that length: what `prefix_shared_attention` reads."""
    longest = max(lengths)
    real = torch.arange(longest) < torch.tensor(lengths)[:, None]
    own = torch.zeros(real.shape, dtype=torch.long)
    own[real] = torch.arange(prefix, prefix + sum(lengths))
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = torch.nn.functional.pad(causal, (prefix, 0), value=True)
    return {"own": own, "place": real.flatten().nonzero()[:, 0], "attention_mask": mask[None, None]}


def block_mask(segment: torch.Tensor) -> BlockMask:
    """The mask of a packed row for flex attention, on `segment`'s device: what `PrefixSharedCollator` shows.

    On the CPU torch runs flex attention forward only, so that no gradient was compared, and no GPU was at hand: the
    forward pass and the mask itself are what the tests hold.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        owner = segment[row, key]
        return (query >= key) & ((owner == 0) | (owner == segment[row, query]))

    rows, width = segment.shape
    return create_block_mask(visible, B=rows, H=None, Q_LEN=width, KV_LEN=width, device=str(segment.device))


def choose_collator(model: PreTrainedModel, pad_token_id: int) -> PaddedCollator | PrefixSharedCollator:
    """Prefix sharing where the model computes the same with it, otherwise padding, with one log line that says why.

    A model with sdpa is set to attend as the batches need it; it goes on to compute as before on all others.
    """
    reason = not_shareable(model)
    if reason:
        log.info("Batches are padded, without prefix sharing: %s.", reason)
        return PaddedCollator(pad_token_id)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a plan for each new shape, and every pack is one
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if base.config._attn_implementation == "sdpa":
        base.set_attn_implementation(PREFIX_SHARED)
    return PrefixSharedCollator(base.config._attn_implementation)


def not_shareable(model: PreTrainedModel) -> str | None:
    """Why rows of this model cannot share their prefix, or None where they can.

    Every layer must be full attention, read the mask it is given and take positions from outside; a state carried from
    token to token (linear attention, Mamba) or a window would mix the examples of a pack.
    """
    config = model.config
    other = {kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"}
    if other:
        return f"some layers are {', '.join(sorted(other))}"
    if not getattr(config, "layer_types", None) and getattr(config, "sliding_window", None):
        return f"its attention has a window of {config.sliding_window} tokens"
    if config._attn_implementation not in SHARING:
        return (
            f"attn_implementation {config._attn_implementation} does not take a mask of ours; sdpa, eager and "
            "flex_attention do"
        )
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return f"{type(base).__name__} takes no position_ids"
    return None


@dataclass(frozen=True)
class EvaluationCollator:
    """What evaluation needs of each row: its number, its prompt to generate from, and `loss_inputs` for the loss.

    `row` (rows,) comes first: the evaluation loop reads the size of the batch off the first tensor that it finds.
    """

    training: PaddedCollator | PrefixSharedCollator
    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        prompts = pad_left([row["prompt_ids"] for row in rows], self.pad_token_id)
        return {
            "row": torch.tensor([row["row"] for row in rows]),
            "prompt_ids": prompts["input_ids"],
            "prompt_mask": prompts["attention_mask"],
            "loss_inputs": self.training(rows),
        }
