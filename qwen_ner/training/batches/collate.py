"""Collate rows of token ids into the tensors of a batch.

In: rows of `data.tokenize.build_dataset`. Out: what the model's forward takes to compute the loss. The data set decides
the labels; a collator only arranges them. Knows nothing of recipes and texts.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from ...inference.backends.prefix_cache import shared_prefix
from .attention import PREFIX_SHARED
from .gpu.varlen import has_kernel, layout

log = logging.getLogger(__name__)

FLASH = "flash_attention_2"

SHARING = ("sdpa", PREFIX_SHARED, "eager")
"""The attention implementations that support several examples in one row; so does `FLASH` where `has_kernel`."""

IGNORED = -100
"""The label of an unsupervised position, as in torch's cross entropy."""


@dataclass(frozen=True)
class PaddedCollator:
    """Prompt and answer side by side, padded on the right to the longest row.

    >>> rows = [{"prompt_ids": [1, 2], "answer_ids": [3, 9]}, {"prompt_ids": [1], "answer_ids": [9]}]
    >>> batch = PaddedCollator(pad_token_id=0)(rows)
    >>> batch["input_ids"].tolist(), batch["labels"].tolist()
    ([[1, 2, 3, 9], [1, 9, 0, 0]], [[-100, -100, 3, 9], [-100, 9, -100, -100]])

    Logits are computed only where there is something to predict: `logits_to_keep` (kept,) holds the columns before a
    supervised token of any row, `shift_labels` (rows, kept) the tokens to predict there.

    >>> batch["logits_to_keep"].tolist(), batch["shift_labels"].tolist()
    ([0, 1, 2], [[-100, 3, 9], [9, -100, -100]])

    A row with `counted: False` is left out of the loss.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(row["prompt_ids"] + row["answer_ids"]) for row in rows]
        labels = [torch.tensor([IGNORED] * len(row["prompt_ids"]) + answer_labels(row)) for row in rows]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            **supervision(pad_sequence(labels, batch_first=True, padding_value=IGNORED)),
        }


def answer_labels(row: dict[str, Any]) -> list[int]:
    """The labels of the row's answer: its tokens, or all `IGNORED` if the row is not counted."""
    answer: list[int] = row["answer_ids"]
    return answer if row.get("counted", True) else [IGNORED] * len(answer)


def supervision(labels: torch.Tensor, multiple: int = 1) -> dict[str, torch.Tensor]:
    """`labels` (rows, tokens), the columns whose logits are needed, and the tokens to predict there.

    Columns instead of a mask: transformers before 5.21 takes no mask, and a mask costs a GPU synchronization. Others
    join them until their number is a `multiple`.
    """
    shifted = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    needed = (shifted != IGNORED).any(0)
    count = int(needed.sum())
    keep = needed.sort(descending=True, stable=True).indices[: count + -count % multiple].sort().values
    return {"labels": labels, "logits_to_keep": keep, "shift_labels": shifted[:, keep]}


@dataclass(frozen=True)
class PrefixSharedCollator:
    """All rows of a batch packed into one row, after the prefix that all prompts have in common.

    The prefix occurs once. Every example follows with positions that restart after it, and attends to the prefix and
    causally to its own tokens, nothing else. Two short rows with the prefix [1, 2]:

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

    Loss and gradient equal those of the rows one by one. In a causal model the prefix does not see what follows, so its
    keys and values are the same in every row, and its gradients add up as they would over separate rows. With dropout
    this holds for each draw; the rows then share the draw of the prefix.
    Preference training shares prompts by the same argument: "Accelerating Direct Preference Optimization with Prefix
    Sharing" (arXiv 2410.20305), "Prefix Grouper: Efficient GRPO Training through Shared-Prefix Forward" (arXiv
    2506.05433).

    "eager" attention adds that mask, as above: 0 or the lowest float32, and memory that grows with the square of the
    row. By default no such mask is needed: `attention.prefix_shared_attention` attends example by example, and the
    batch holds what it reads:

    >>> batch = PrefixSharedCollator()(rows)
    >>> batch["own"].tolist(), batch["place"].tolist()
    ([[2, 3, 4], [5, 6, 0]], [0, 1, 2, 3, 4])
    >>> batch["attention_mask"][0, 0].int().tolist()
    [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]

    With `varlen` it holds the tensors of `gpu.varlen.layout` too, for GPUs with that kernel. With `padded`, an example
    of padding without labels ends the row, so that packs of as many rows are of few shapes, those that CUDA graphs are
    recorded for:

    >>> padded = PrefixSharedCollator(padded=True)(rows)
    >>> [padded[name].shape[-1] for name in ("input_ids", "logits_to_keep")]
    [64, 64]
    """

    attention: str = PREFIX_SHARED
    varlen: bool = False
    padded: bool = False

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        prefix = shared_prefix([row["prompt_ids"] for row in rows])
        own = [row["prompt_ids"][len(prefix) :] + row["answer_ids"] for row in rows]
        multiple = 1
        if self.padded:
            total = len(prefix) + sum(map(len, own))
            # An eighth to a sixteenth of the row, half of which is padding on average.
            multiple = min(512, max(64, (1 << total.bit_length()) // 16))
            own.append([0] * (multiple - total % multiple))
        lengths = [len(ids) for ids in own]
        behind = [range(len(prefix), len(prefix) + length) for length in lengths]
        labels = [IGNORED] * len(prefix)
        for row, length in zip(rows, lengths, strict=False):
            labels += [IGNORED] * (length - len(row["answer_ids"])) + answer_labels(row)
        labels += [IGNORED] * (len(prefix) + sum(lengths) - len(labels))
        batch = {
            "input_ids": torch.tensor([list(chain(prefix, *own))]),
            "position_ids": torch.tensor([list(chain(range(len(prefix)), *behind))]),
            **supervision(torch.tensor([labels]), multiple),
        }
        if self.attention == PREFIX_SHARED:
            sequences = layout(len(prefix), lengths) if self.varlen else {}
            longest = max(lengths)
            return {**batch, **_apart(len(prefix), lengths, longest + -longest % multiple), **sequences}
        segment = torch.repeat_interleave(torch.tensor([len(prefix), *lengths]))[None]  # 0 is the prefix
        keys, queries = segment[:, None, None, :], segment[:, None, :, None]
        seen = ((keys == 0) | (keys == queries)).tril()
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        return {**batch, "attention_mask": mask}


def _apart(prefix: int, lengths: Sequence[int], longest: int) -> dict[str, torch.Tensor]:
    """The position of each example after a prefix of that length, as `prefix_shared_attention` reads it; none is longer
    than `longest`."""
    real = torch.arange(longest) < torch.tensor(lengths)[:, None]
    own = torch.zeros(real.shape, dtype=torch.long)
    own[real] = torch.arange(prefix, prefix + sum(lengths))
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = torch.nn.functional.pad(causal, (prefix, 0), value=True)
    return {"own": own, "place": real.flatten().nonzero()[:, 0], "attention_mask": mask[None, None]}


def choose_collator(model: PreTrainedModel, pad_token_id: int) -> PaddedCollator | PrefixSharedCollator:
    """Prefix sharing where the model supports it, otherwise padding, with one log line that says why.

    A model with sdpa or flash_attention_2 is switched to the attention that packed batches need; all other batches
    compute by sdpa.
    """
    reason = not_shareable(model)
    if reason:
        log.info("Batches are padded, without prefix sharing: %s.", reason)
        return PaddedCollator(pad_token_id)
    torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN plans anew for each shape, and nearly every pack has a new one
    base = base_of(model)
    if base.config._attn_implementation == FLASH:
        log.info("Packed batches use FlashAttention where they are in bfloat16 or float16, and sdpa elsewhere.")
    if base.config._attn_implementation in ("sdpa", FLASH):
        base.set_attn_implementation(PREFIX_SHARED)
    return PrefixSharedCollator(base.config._attn_implementation, varlen=has_kernel())


def base_of(model: Any) -> Any:
    """The transformers model, without the adapter that may be around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def not_shareable(model: PreTrainedModel) -> str | None:
    """The reason why this model does not support prefix sharing, or None if it does.

    Every layer must use full attention and accept a mask and positions: a state carried from token to token (linear
    attention, Mamba) or a sliding window would mix the examples of a pack.
    """
    config = model.config
    other = {kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"}
    if other:
        return f"some layers are {', '.join(sorted(other))}"
    if not getattr(config, "layer_types", None) and getattr(config, "sliding_window", None):
        return f"its attention has a window of {config.sliding_window} tokens"
    if config._attn_implementation not in (*SHARING, *[FLASH] * has_kernel()):
        return (
            f"attn_implementation {config._attn_implementation} does not support prefix sharing here; sdpa and eager "
            f"do, and {FLASH} on NVIDIA GPUs of the Ampere generation or later"
        )
    base = base_of(model)
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return f"{type(base).__name__} takes no position_ids"
    return None


@dataclass(frozen=True)
class BatchRows:
    """The rows that a batch was made of. A wrapper, so that nothing on the way to the device looks inside."""

    rows: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class RowCollator:
    """The tensors of `collate`, between `row` (rows,), the row numbers, and `rows`, a `BatchRows`.

    `row` comes first: the evaluation loop takes the batch size from the first tensor that it finds.
    """

    collate: PaddedCollator | PrefixSharedCollator

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"row": torch.tensor([row["row"] for row in rows]), **self.collate(rows), "rows": BatchRows(rows)}
