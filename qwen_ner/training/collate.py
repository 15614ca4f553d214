"""Rows of token ids to the tensors of a batch.

In: rows of `data.tokenize.build_dataset`. Out: what the model's forward takes for the loss, and for evaluation the
prompts as well. Labels were decided in the data set; a collator only arranges. Knows nothing of recipes and texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..inference.generation import pad_left

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
        shifted = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
        keep = shifted != IGNORED
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
            "logits_to_keep": keep,
            "shift_labels": shifted[keep],
        }


@dataclass(frozen=True)
class EvaluationCollator:
    """What evaluation needs of each row: its number, its prompt to generate from, and `loss_inputs` for the loss.

    `row` (rows,) comes first: the evaluation loop reads the size of the batch off the first tensor that it finds.
    """

    training: PaddedCollator

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        prompts = pad_left([row["prompt_ids"] for row in rows], self.training.pad_token_id)
        return {
            "row": torch.tensor([row["row"] for row in rows]),
            "prompt_ids": prompts["input_ids"],
            "prompt_mask": prompts["attention_mask"],
            "loss_inputs": self.training(rows),
        }
