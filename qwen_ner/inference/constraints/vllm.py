"""The grammar inside of vLLM: a logits processor for a server that others start.

In: requests whose `vllm_xargs` hold the text and the labels (`backends.http` writes them). Out: logits in which only
tokens that a `grammar.Constraint` allows are left. Other requests stay as they are. This module is imported by vLLM, in
its own environment: it needs vLLM, torch and transformers, and nothing that trains.

    vllm serve FOLDER --logits-processors qwen_ner.inference.constraints.vllm:GrammarProcessor
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

from .grammar import FIXED, Constraint, constrain
from .remote import LABELS, LEAST_TOKENS, TARGET, TEXT
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate


class GrammarProcessor(LogitsProcessor):
    """Keeps the answers of requests with a text to its grammar. They must be greedy, and name their end tokens."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        model = vllm_config.model_config
        tokenizer = AutoTokenizer.from_pretrained(
            model.tokenizer, revision=model.tokenizer_revision, trust_remote_code=False
        )
        self.vocabulary = Vocabulary(tokenizer, ())
        self.fixed = lru_cache(maxsize=64)(lambda target, labels: FIXED[target](labels))
        self.answers: dict[int, tuple[Constraint, Sequence[int], list[int]]] = {}
        """For each row of the batch its constraint, the tokens written so far, and those that the constraint took."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise `ValueError`, which the client gets as HTTP 400, for a request that no constraint can be made for."""
        given = sampling_params.extra_args or {}
        if not {TEXT, LABELS} & given.keys():
            return
        text, labels = given.get(TEXT), given.get(LABELS)
        if not isinstance(text, str) or not isinstance(labels, list) or not all(isinstance(n, str) for n in labels):
            raise ValueError(f"vllm_xargs: {TEXT} must be a string and {LABELS} a list of strings")
        if given.get(TARGET, "json") not in FIXED:
            raise ValueError(f"vllm_xargs: {TARGET} must be one of {', '.join(FIXED)}")
        if sampling_params.temperature or not sampling_params.stop_token_ids:
            raise ValueError(f"{TEXT} needs temperature 0 and the end tokens in stop_token_ids")
        if not sampling_params.max_tokens or sampling_params.max_tokens < LEAST_TOKENS:
            raise ValueError(f"{TEXT} needs max_tokens of {LEAST_TOKENS} or more")

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self.answers, batch_update, self._answer)

    def _answer(self, params: SamplingParams, prompt: Any, written: Sequence[int]) -> Any:
        given = params.extra_args or {}
        if TEXT not in given:
            return None
        vocabulary = copy(self.vocabulary)
        vocabulary.ends = frozenset(params.stop_token_ids)
        fixed = self.fixed(given.get(TARGET, "json"), tuple(given[LABELS]))
        return constrain(vocabulary, fixed, given[TEXT], params.max_tokens), written, []

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` (row, vocabulary), changed in place where the likeliest token of a row may not come."""
        rows = list(self.answers)
        if not rows:
            return logits
        for row, likeliest in zip(rows, logits[rows].argmax(-1).tolist(), strict=True):
            constraint, written, taken = self.answers[row]
            try:
                for token in written[len(taken) :]:
                    constraint.advance(token)
                    taken.append(token)
            except ValueError:  # a token that something else forced; the client finds it, other requests must go on
                del self.answers[row]
                continue
            if not constraint.allows(likeliest) and (allowed := constraint.allowed()):
                kept = logits[row, allowed]
                logits[row] = -torch.inf
                logits[row, allowed] = kept
        return logits
