"""Rows of token ids to the tensors of a batch.

In: rows of `data.tokenize.build_dataset`. Out: what the model's forward takes for the loss, and for evaluation the
prompts as well. Labels were decided in the data set; a collator only arranges. Knows nothing of recipes and texts.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..inference.generation import pad_left, shared_prefix

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

SHARING = ("sdpa", "eager", "flex_attention")
"""The attention implementations that take any mask."""

IGNORED = -100
"""The label of a position that is not supervised, as torch's cross entropy has it."""


@dataclass(frozen=True)
class PaddedCollator:
    """Prompt and answer side by side, padded on the right to the longest row.

    >>> rows = [{"prompt_ids": [1, 2], "answer_ids": [3, 9]}, {"prompt_ids": [1], "answer_ids": [9]}]
    >>> batch = PaddedCollator(pad_token_id=0)(rows)
    >>> batch["input_ids"].tolist(), batch["labels"].tolist()
    ([[1, 2, 3, 9], [1, 9, 0, 0]], [[-100, -100, 3, 9], [-100, 9, -100, -100]])

    The vocabulary is multiplied only where there is something to predict: `logits_to_keep` marks the positions before a
    supervised token, `shift_labels` holds those tokens, row after row.

    >>> batch["logits_to_keep"].int().tolist(), batch["shift_labels"].tolist()
    ([[0, 1, 1, 0], [1, 0, 0, 0]], [3, 9, 9])
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
            labels[i, len(prompt) : end] = torch.tensor(answer)
        return {"input_ids": input_ids, "attention_mask": attention_mask, **supervision(labels)}


def supervision(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """`labels` themselves, the positions whose logits are needed to predict them, and what is to be predicted there."""
    shifted = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    keep = shifted != IGNORED
    return {"labels": labels, "logits_to_keep": keep, "shift_labels": shifted[keep]}


@dataclass(frozen=True)
class PrefixSharedCollator:
    """All rows of a batch in one or a few packed rows, each beginning with the tokens that all prompts begin with.

    The prefix stands there once; every example follows with positions that restart behind it, and sees its own tokens
    causally and the prefix, nothing else. Two short rows in one pack, with the prefix [1, 2]:

    >>> rows = [{"prompt_ids": [1, 2, 3], "answer_ids": [4, 9]}, {"prompt_ids": [1, 2, 5], "answer_ids": [9]}]
    >>> batch = PrefixSharedCollator(pad_token_id=0, break_even_keys=1e4)(rows)
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist()
    ([[1, 2, 3, 4, 9, 5, 9]], [[0, 1, 2, 3, 4, 2, 3]])
    >>> print("\\n".join(str(row) for row in batch["attention_mask"][0, 0].int().tolist()))
    [1, 0, 0, 0, 0, 0, 0]
    [1, 1, 0, 0, 0, 0, 0]
    [1, 1, 1, 0, 0, 0, 0]
    [1, 1, 1, 1, 0, 0, 0]
    [1, 1, 1, 1, 1, 0, 0]
    [1, 1, 0, 0, 0, 1, 0]
    [1, 1, 0, 0, 0, 1, 1]
    >>> batch["logits_to_keep"].int().tolist(), batch["shift_labels"].tolist()
    ([[0, 0, 1, 1, 0, 1, 0]], [4, 9, 9])

    Loss and gradient are those of the rows one by one. In a causal model the prefix does not see what follows it, so
    its keys and values are the same in every row, and the gradients that reach it add up as they would over the rows.
    Under dropout this holds for each draw of it; the rows of a pack then have the prefix's draw in common.
    Preference training shares prompts by the same argument: "Accelerating Direct Preference Optimization with Prefix
    Sharing" (arXiv 2410.20305), "Prefix Grouper: Efficient GRPO Training through Shared-Prefix Forward" (arXiv
    2506.05433).

    Each `attention` wants this mask in its own form: sdpa in bool (True: may be seen), under any precision; eager adds
    it, 0 and the lowest float32; flex_attention takes no tensor of it, and the batch holds `segment` (packs, width)
    instead, from which `block_mask` makes a mask that skips whole blocks of unseen keys.
    """

    pad_token_id: int
    break_even_keys: float
    attention: str = "sdpa"

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        prefix = shared_prefix([row["prompt_ids"] for row in rows])
        own = [row["prompt_ids"][len(prefix) :] + row["answer_ids"] for row in rows]
        packs = self.packs(len(prefix), [len(ids) for ids in own])
        width = len(prefix) + max(sum(len(own[i]) for i in pack) for pack in packs)
        input_ids = torch.full((len(packs), width), self.pad_token_id, dtype=torch.long)
        position_ids = torch.zeros_like(input_ids)
        labels = torch.full_like(input_ids, IGNORED)
        segment = torch.full_like(input_ids, -1)  # whose token: 0 the prefix's, 1… an example's, -1 padding
        for row, pack in enumerate(packs):
            at = len(prefix)
            input_ids[row, :at] = torch.tensor(prefix, dtype=torch.long)
            position_ids[row, :at] = torch.arange(at)
            segment[row, :at] = 0
            for number, i in enumerate(pack, start=1):
                end = at + len(own[i])
                input_ids[row, at:end] = torch.tensor(own[i])
                position_ids[row, at:end] = torch.arange(len(prefix), len(prefix) + len(own[i]))
                answer = rows[i]["answer_ids"]
                labels[row, end - len(answer) : end] = torch.tensor(answer)
                segment[row, at:end] = number
                at = end
        batch = {"input_ids": input_ids, "position_ids": position_ids, **supervision(labels)}
        if self.attention == "flex_attention":
            return {**batch, "segment": segment}
        keys, queries = segment[:, None, None, :], segment[:, None, :, None]
        mask = ((keys == 0) | (keys == queries)).tril()
        if self.attention == "eager":
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        return {**batch, "attention_mask": mask}

    def packs(self, prefix: int, lengths: Sequence[int]) -> list[list[int]]:
        """Which examples share a packed row: as many as make the work least, in packs of about one length.

        With n examples of s own tokens behind a prefix of p, a pack costs p + n·s tokens in the linear layers and
        (p + n·s)² pairs in attention. In units of a pair, with K = `break_even_keys` pairs to a token's linear layers,
        an example costs (K·(p + n·s) + (p + n·s)²) / n, which is least at n = p/s · sqrt(1 + K/p).
        """
        mean = sum(lengths) / len(lengths)
        best = prefix / mean * math.sqrt(1 + self.break_even_keys / prefix) if prefix else 1.0
        count = max(1, math.ceil(len(lengths) / max(1.0, best)))
        packs: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            emptiest = filled.index(min(filled))
            packs[emptiest].append(i)
            filled[emptiest] += lengths[i]
        return packs


def block_mask(segment: torch.Tensor) -> BlockMask:
    """The mask of packs for flex attention, on `segment`'s device: what `PrefixSharedCollator` shows.

    On the CPU torch runs flex attention forward only, so that no gradient was compared, and no GPU was at hand: the
    forward pass and the mask itself are what the tests hold.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(pack: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        owner = segment[pack, key]
        return (query >= key) & ((owner == 0) | (owner == segment[pack, query]))

    packs, width = segment.shape
    return create_block_mask(visible, B=packs, H=None, Q_LEN=width, KV_LEN=width, device=str(segment.device))


def choose_collator(model: PreTrainedModel, pad_token_id: int) -> PaddedCollator | PrefixSharedCollator:
    """Prefix sharing where the model computes the same with it, otherwise padding, with one log line that says why."""
    reason = not_shareable(model)
    if reason:
        log.info("Batches are padded, without prefix sharing: %s.", reason)
        return PaddedCollator(pad_token_id)
    config = model.config
    if config._attn_implementation == "flex_attention":  # pays only for pairs that may be seen: one pack is best
        return PrefixSharedCollator(pad_token_id, break_even_keys=math.inf, attention="flex_attention")
    weights = model.num_parameters(exclude_embeddings=True) / config.num_hidden_layers
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # A token's linear layers multiply by each weight once; a pair's attention by each dimension of q·k, and of v.
    return PrefixSharedCollator(
        pad_token_id,
        break_even_keys=weights / (2 * head * config.num_attention_heads),
        attention=config._attn_implementation,
    )


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
            f"attn_implementation {config._attn_implementation} does not take a mask of ours; {', '.join(SHARING)} do"
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

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        prompts = pad_left([row["prompt_ids"] for row in rows], self.training.pad_token_id)
        return {
            "row": torch.tensor([row["row"] for row in rows]),
            "prompt_ids": prompts["input_ids"],
            "prompt_mask": prompts["attention_mask"],
            "loss_inputs": self.training(rows),
        }
