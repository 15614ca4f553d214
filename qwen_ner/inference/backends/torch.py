"""The torch backend: greedy decoding in batches, on the model as it stands in this process.

In: a causal LM and prompts as token ids. Out: a `Completion` for each prompt, in order. Sharing the common prefix,
batching, drafts and running out of memory are its own affair. Knows nothing of labels, JSON or recipes.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...contract import NerConfig
from ...entities import NerError
from ..loading import load_weights
from .base import BATCH_TOKENS as BATCH_TOKENS
from .base import Completion, Constraint
from .decoding import BatchWriter, Row
from .decoding import pad_left as pad_left
from .oom import out_of_memory
from .packed_linear import pack
from .prefix_cache import PrefixCache, shared_prefix

if TYPE_CHECKING:
    from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


class TorchBackend:
    """Writes with `model`, which is put in evaluation mode.

    The keys and values of what all prompts begin with are kept between calls: make a new backend when the weights have
    changed. `batch_tokens` is lowered for good when a batch runs out of memory.
    """

    def __init__(
        self, model: PreTrainedModel, end_token_ids: Sequence[int], pad_token_id: int, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        self.model = model.eval()
        self.ends = list(end_token_ids)
        self.pad_token_id = pad_token_id
        self.batch_tokens = batch_tokens
        self.prefix = PrefixCache()
        self.memory_tokens = sys.maxsize  # the batch that fitted into memory, once a larger one did not
        torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a plan for each new shape, and every step is one

    @classmethod
    def load(
        cls,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        config: NerConfig,
        *,
        device: str | None = None,
        dtype: str | None = None,
    ) -> TorchBackend:
        """The model in `folder`, its adapter merged, its linear layers packed on a CPU: not to be trained further.

        `device` defaults to the GPU if there is one. `dtype` defaults to bfloat16 on a GPU that has it (from
        Ampere on), else float32.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if dtype is None:
            native = torch.cuda.is_bf16_supported(including_emulation=False)  # emulated, it is slower than float32
            dtype = "bfloat16" if device.startswith("cuda") and native else "float32"
        model = load_weights(folder, getattr(torch, dtype))
        return cls(pack(model.to(device)), config.end_token_ids, tokenizer.pad_token_id)

    @property
    def max_length(self) -> int:
        return self.model.config.max_position_embeddings

    @torch.no_grad()
    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        limit: int,
        constraints: Sequence[Constraint] | None = None,
        *,
        hints: Sequence[Constraint] | None = None,
        batch_tokens: int | None = None,
        on_rows: Callable[[int], object] | None = None,
        temperature: float = 0.0,
    ) -> list[Completion]:
        """See `Backend.complete`. In float32 the ids are those of transformers' own greedy `generate` without
        penalties, whatever the batch; in bfloat16 near ties move with it.

        Prompts are sorted by length and taken in batches of `batch_tokens`; a longer prompt goes alone. A batch that
        runs out of memory is retried by halves. With a `temperature`, tokens are drawn by torch's global generator.
        Raises `NerError` if a single prompt and its answer, or what all prompts begin with, do not fit into memory.
        """
        if not prompts:
            return []
        writer = BatchWriter(self.model, self.ends, limit, temperature, constrained=bool(constraints))
        guides: Sequence[Constraint | None] = constraints or hints or [None] * len(prompts)
        prefix = self._prefix(prompts)
        budget = min(batch_tokens or self.batch_tokens, self.memory_tokens)
        lengths = [len(prompt) + limit for prompt in prompts]
        waiting = sorted(range(len(prompts)), key=lambda i: -lengths[i])
        done: dict[int, Completion] = {}
        while waiting:
            chosen = waiting[: max(1, budget // lengths[waiting[0]])]
            rows = [Row(prompts[i], guides[i]) for i in chosen]
            own = pad_left([row.prompt[prefix.get_seq_length() :] for row in rows], self.pad_token_id)
            if fits_memory(partial(writer.write, rows, own, prefix)):
                for i, row in zip(chosen, rows, strict=True):
                    done[i] = Completion(row.ids, row.finished, row.logprobs)
                waiting = waiting[len(chosen) :]
                if on_rows:
                    on_rows(len(chosen))
                continue
            if len(chosen) == 1:
                what = "the tokens of a prompt and its answer do not fit into memory"
                raise NerError(what, value=lengths[chosen[0]], remedy=f"use a shorter text, or {MORE_MEMORY}")
            budget = self.memory_tokens = len(chosen) // 2 * lengths[chosen[0]]
            self.batch_tokens = min(self.batch_tokens, budget)
            log.warning("A batch of %d rows ran out of memory; using up to %d tokens a batch.", len(chosen), budget)
            for i in chosen:
                if guide := guides[i]:
                    guide.restart()
        return [done[i] for i in range(len(prompts))]

    def _prefix(self, prompts: Sequence[Sequence[int]]) -> DynamicCache:
        """The cache of what `prompts` have in common. It is no longer than one prompt, so it cannot be halved."""
        made: list[DynamicCache] = []
        for _ in range(2):  # the first try may fail for what it then frees
            if fits_memory(lambda: made.append(self.prefix.common(self.model, prompts))):
                return made[0]
        what = "the tokens that all prompts begin with do not fit into memory"
        remedy = f"use a shorter system_prompt, or {MORE_MEMORY}"
        raise NerError(what, value=len(shared_prefix(prompts)), remedy=remedy)


MORE_MEMORY = "a smaller model, or a device with more memory"


def fits_memory(compute: Callable[[], object]) -> bool:
    """Call `compute`; False, with what it held freed, if the memory ran out."""
    from accelerate.utils.memory import clear_device_cache

    try:
        compute()
        return True
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    clear_device_cache(garbage_collection=True)  # here, where the error no longer holds the batch's tensors
    return False


def neutral_generation_config(end_token_ids: Sequence[int], pad_token_id: int, max_new_tokens: int) -> GenerationConfig:
    """Greedy, without penalties, stopping at the right tokens: what a trained folder ships for other tools.

    Every field is set, because transformers fills those left None from the model's own config: the one that Qwen2.5
    ships carries a repetition penalty of 1.1, which `do_sample=False` does not switch off and which punishes copying
    the input, the very thing this task asks for.
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


def until_end(ids: Sequence[int], ends: set[int]) -> tuple[list[int], bool]:
    """The ids before the first end token, and whether there is one.

    >>> until_end([5, 6, 2, 0, 0], {2})
    ([5, 6], True)
    """
    for position, token in enumerate(ids):
        if token in ends:
            return list(ids[:position]), True
    return list(ids), False
