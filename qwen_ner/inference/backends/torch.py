"""The torch backend: greedy or drawn decoding in batches, on the model as it stands in this process.

In: a causal LM and prompts as token ids. Out: a `Completion` for each prompt, in order. Sharing the common prefix,
batching, drafts and running out of memory are its own affair. Knows nothing of labels, JSON or recipes.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...contract import NerConfig
from ...entities import NerError
from ..loading import load_weights
from .base import BATCH_TOKENS as BATCH_TOKENS
from .base import Completion, Constraint, Draw
from .continuous import ContinuousWriter
from .decoding import BatchWriter, Row
from .decoding import pad_left as pad_left
from .oom import out_of_memory
from .packed_linear import pack
from .prefix_cache import PrefixCache, shared_prefix
from .static import StaticDecoder, unfit

if TYPE_CHECKING:
    from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


class TorchBackend:
    """Writes with `model`, which is put in evaluation mode.

    On a GPU a model for inference only, whose layers are those of Qwen2 or Qwen3, decodes with a `StaticDecoder`.
    The keys and values of what all prompts begin with are kept between calls: make a new backend when the weights have
    changed. `batch_tokens` is lowered for good when a batch runs out of memory.
    """

    def __init__(
        self, model: PreTrainedModel, end_token_ids: Sequence[int], pad_token_id: int, batch_tokens: int | None = None
    ) -> None:
        self.model = model.eval()
        self.ends = list(end_token_ids)
        self.pad_token_id = pad_token_id
        self.decoder: StaticDecoder | None = None
        if model.device.type == "cuda":
            if reason := unfit(model):
                log.info("Decoding kernel by kernel, without a CUDA graph: %s.", reason)
            else:
                self.decoder = StaticDecoder(model)
        # On a GPU the memory that is free bounds a batch.
        self.batch_tokens = batch_tokens or (sys.maxsize if self.decoder else BATCH_TOKENS)
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

        `device` defaults to the GPU if there is one, `dtype` to `default_dtype`.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = load_weights(folder, getattr(torch, dtype or default_dtype(device))).requires_grad_(False)
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
        draws: Sequence[Draw] | None = None,
        hints: Sequence[Constraint] | None = None,
        batch_tokens: int | None = None,
        on_rows: Callable[[int], object] | None = None,
    ) -> list[Completion]:
        """See `Backend.complete`. In float32 the ids are those of transformers' own greedy `generate` without
        penalties, whatever the batch; in bfloat16 near ties move with it.

        Prompts are sorted by length and taken in batches of `batch_tokens`; a longer prompt goes alone. A batch that
        runs out of memory is retried by halves. What is drawn, too, depends on the batch only as far as rounding goes.
        Raises `NerError` if a single prompt and its answer, or what all prompts begin with, do not fit into memory.
        """
        if not prompts:
            return []
        common = (self.model, self.ends, self.pad_token_id, limit, bool(constraints))
        writer = ContinuousWriter(*common, self.decoder) if self.decoder else BatchWriter(*common)
        guides: Sequence[Constraint | None] = constraints or hints or [None] * len(prompts)
        prefix = self._prefix(prompts)
        budget = min(batch_tokens or self.batch_tokens, self.memory_tokens)
        drawn: Sequence[Draw | None] = draws or [None] * len(prompts)
        rows = [Row(i, *given) for i, given in enumerate(zip(prompts, guides, drawn, strict=True))]
        waiting = sorted(rows, key=lambda row: -len(row.prompt))
        done: dict[int, Completion] = {}
        while waiting:
            together = writer.together(waiting, budget)
            write = partial(_collect, writer.write(waiting, together, prefix), done, on_rows)
            fits = fits_memory(write, self.decoder.release if self.decoder else None)
            waiting = [row for row in waiting if row.number not in done]
            if fits:
                continue
            if together == 1:
                what = "the tokens of a prompt and its answer do not fit into memory"
                length = len(waiting[0].prompt) + limit
                raise NerError(what, value=length, remedy=f"use a shorter text, or {MORE_MEMORY}")
            budget = self.memory_tokens = together // 2 * writer.length(waiting[0])
            self.batch_tokens = min(self.batch_tokens, budget)
            log.warning("A batch of %d rows ran out of memory; using up to %d tokens a batch.", together, budget)
            for guide in [guides[row.number] for row in waiting]:
                if guide:
                    guide.restart()
            waiting = [Row(row.number, row.prompt, guides[row.number], row.draw) for row in waiting]
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


def default_dtype(device: str) -> str:
    """bfloat16 on a GPU that has it (from Ampere on), else float32."""
    native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)  # emulated: slower
    return "bfloat16" if native else "float32"


MORE_MEMORY = "a smaller model, or a device with more memory"


def _collect(
    written: Iterator[list[Row]], done: dict[int, Completion], on_rows: Callable[[int], object] | None
) -> None:
    """Put rows into `done` as they are `written`."""
    for rows in written:
        done |= {row.number: Completion(row.ids, row.finished, row.logprobs) for row in rows}
        if on_rows:
            on_rows(len(rows))


def fits_memory(compute: Callable[[], object], release: Callable[[], object] | None = None) -> bool:
    """Call `compute`; False, after `release` and with what it held freed, if the memory ran out."""
    from accelerate.utils.memory import clear_device_cache

    try:
        compute()
        return True
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    if release:
        release()
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
