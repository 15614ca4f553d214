"""The torch backend: greedy or drawn decoding in batches, on the model as it stands in this process.

In: a causal LM and prompts as token ids. Out: a `Completion` for each prompt, in order. Sharing the common prefix,
batching, drafts and running out of memory are its own affair. Knows nothing of labels, JSON or recipes.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...contract import NerConfig
from ...entities import NerError
from ..loading import load_weights
from .base import BATCH_TOKENS as BATCH_TOKENS
from .base import DTYPES, Backend, Completion, Constraint, Draw, Feed, Guide, Request, Row
from .beams import Beam, BeamSearch
from .continuous import ContinuousWriter
from .decoding import BatchWriter
from .oom import fits_memory
from .packed_linear import pack
from .prefix_cache import PrefixCache, shared_prefix
from .static import StaticDecoder, unfit

log = logging.getLogger(__name__)


class TorchBackend(Backend):
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
        dtype: str = "auto",
    ) -> TorchBackend:
        """The model in `folder`, its adapter merged, its linear layers packed on a CPU: not to be trained further.

        `device` defaults to the GPU if there is one; `dtype` is one of `DTYPES`, where auto is `default_dtype`.
        """
        if dtype not in DTYPES:
            raise NerError("unknown dtype", value=dtype, place="dtype", remedy=f"choose one of: {', '.join(DTYPES)}")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        name = default_dtype(device) if dtype == "auto" else dtype
        if name == "bfloat16" and not has_bf16(device):
            log.warning("bfloat16 is slow on this %s, which has no bf16 of its own, or does not tell", device)
        model = load_weights(folder, getattr(torch, name)).requires_grad_(False)
        return cls(pack(model.to(device)), config.end_token_ids, tokenizer.pad_token_id)

    @cached_property
    def max_length(self) -> int:  # type: ignore[override]
        return self.model.config.max_position_embeddings

    @torch.no_grad()
    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        limit: int,
        constraints: Sequence[Constraint] | None = None,
        *,
        draws: Sequence[Draw | None] | None = None,
        hints: Sequence[Constraint] | None = None,
        batch_tokens: int | None = None,
        on_rows: Callable[[int], object] | None = None,
    ) -> list[Completion]:
        """See `Backend.complete`. In float32 the ids are those of transformers' own greedy `generate` without
        penalties, whatever the batch; in bfloat16 near ties move with it.

        Prompts are sorted by length and join a batch of `batch_tokens` as others leave it; a longer prompt goes alone.
        What runs out of memory is retried by halves. What is drawn, too, depends on the batch only as far as rounding
        goes; a prompt whose draw is None is answered greedily. Raises `NerError` if a single prompt and its answer, or
        what all prompts begin with, do not fit into memory.
        """
        if not prompts:
            return []
        guides: Sequence[Constraint | None] = constraints or hints or [None] * len(prompts)
        drawn: Sequence[Draw | None] = draws or [None] * len(prompts)
        done: dict[int, Any] = {}
        rows = [
            Row(Request(prompt, guide, partial(done.__setitem__, i), lambda: False, draw))
            for i, (prompt, guide, draw) in enumerate(zip(prompts, guides, drawn, strict=True))
        ]
        prefix, waiting = self._prefix(prompts), deque(sorted(rows, key=lambda row: -len(row.prompt)))
        self._write(waiting, limit, bool(constraints), lambda some: prefix, batch_tokens, on_rows=on_rows)
        return [done[i] for i in range(len(prompts))]

    @torch.no_grad()
    def serve(self, feed: Feed, limit: int, *, batch_tokens: int | None = None) -> None:
        """See `Backend.serve`. Answers are those of `complete`.

        A request joins the running batch once it has room there, and as many wait as make a pass over prompts
        worthwhile; nobody is overtaken. Raises what `complete` raises.
        """
        self._write(deque(), limit, True, partial(self.prefix.common, self.model), batch_tokens, feed)

    @torch.no_grad()
    def search(
        self,
        prompts: Sequence[Sequence[int]],
        limit: int,
        constraints: Sequence[Guide],
        beams: int,
        *,
        batch_tokens: int | None = None,
        on_rows: Callable[[int], object] | None = None,
    ) -> list[list[tuple[Completion, Guide]]]:
        """See `Backend.search`, and `BeamSearch`. Raises what `complete` raises."""
        if not prompts:
            return []
        prefix = self._prefix(prompts)
        searching = BeamSearch(self.model, self.ends, self.pad_token_id, limit, beams)
        found: dict[int, list[Beam[Guide]]] = {}
        waiting = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))

        def write(some: Sequence[int]) -> None:
            given = [prompts[n] for n in some], [constraints[n] for n in some]
            found.update(zip(some, searching.write(*given, prefix), strict=True))

        while waiting:
            need = beams * (len(prompts[waiting[-1]]) + limit)
            budget = min(batch_tokens or min(self.batch_tokens, BATCH_TOKENS), self.memory_tokens)
            some = waiting[-max(1, budget // need) :]
            if not fits_memory(partial(write, some)):
                self._halve(len(some), need, no_memory("the beams of a prompt", beams, "search fewer", "beams"))
                continue
            del waiting[-len(some) :]
            if on_rows:
                on_rows(len(some))
        return [[(beam.completion, beam.guide) for beam in found[n]] for n in range(len(prompts))]

    def _write(
        self,
        waiting: deque[Row],
        limit: int,
        constrained: bool,
        prefix: Callable[[Sequence[Sequence[int]]], DynamicCache],
        batch_tokens: int | None,
        feed: Feed | None = None,
        on_rows: Callable[[int], object] | None = None,
    ) -> None:
        """Answer `waiting` and what `feed` gives. What runs out of memory begins again, half as many at a time."""
        kind: Any = partial(ContinuousWriter, decoder=self.decoder) if self.decoder else BatchWriter
        while True:
            budget = min(batch_tokens or self.batch_tokens, self.memory_tokens)
            writer = kind(self.model, self.ends, self.pad_token_id, limit, constrained, budget, prefix)
            if fits_memory(partial(_answer, writer.write(waiting, feed), on_rows), writer.release):
                return
            rows = [row for row in writer.rows if not row.answered]
            length = max(len(row.prompt) for row in rows) + limit
            alone = no_memory("the tokens of a prompt and its answer", length, "use a shorter text")
            self._halve(len(writer.rows), max(map(writer.need, rows)), alone)
            self.batch_tokens = min(self.batch_tokens, self.memory_tokens)
            for row in rows:
                if row.request.guide:
                    row.request.guide.restart()
            waiting.extendleft(Row(row.request) for row in reversed(rows))

    def _halve(self, prompts: int, need: int, alone: NerError) -> None:
        """Remember that so many `prompts`, of up to `need` tokens each, do not fit. Raises `alone` if it is one."""
        if prompts == 1:
            raise alone
        self.memory_tokens = prompts // 2 * need
        log.warning("%d prompts ran out of memory; using up to %d tokens a batch.", prompts, self.memory_tokens)

    def _prefix(self, prompts: Sequence[Sequence[int]]) -> DynamicCache:
        """The cache of what `prompts` have in common. It is no longer than one prompt, so it cannot be halved."""
        made: list[DynamicCache] = []
        for _ in range(2):  # the first try may fail for what it then frees
            if fits_memory(lambda: made.append(self.prefix.common(self.model, prompts))):
                return made[0]
        what = "the tokens that all prompts begin with"
        raise no_memory(what, len(shared_prefix(prompts)), "use a shorter system_prompt")


def no_memory(what: str, value: int, remedy: str, place: str | None = None) -> NerError:
    remedy = f"{remedy}, a smaller model, or a device with more memory"
    return NerError(f"{what} do not fit into memory", value=value, place=place, remedy=remedy)


def default_dtype(device: str) -> str:
    """bfloat16 on a CUDA GPU that has it (from Ampere on), else float32; in float16 activations can overflow."""
    return "bfloat16" if device.startswith("cuda") and has_bf16(device) else "float32"


def has_bf16(device: str) -> bool:
    """Whether a device computes in bfloat16 itself. Apple's does not tell (M1 emulates it): False.

    A CPU does with AVX512 or AMX, or Arm's bf16. On others torch multiplies matrices 7 to 100 times as slowly as in
    float32.
    """
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    onednn = torch.backends.mkldnn.is_available()
    return device.startswith("cpu") and onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _answer(written: Iterator[list[Row]], on_rows: Callable[[int], object] | None) -> None:
    """Answer rows as they are `written`."""
    for rows in written:
        for row in rows:
            row.answered = True
            row.request.answer(None if row.cancelled else Completion(row.ids, row.finished, row.logprobs))
        if on_rows:
            on_rows(len(rows))


def neutral_generation_config(end_token_ids: Sequence[int], pad_token_id: int, max_new_tokens: int) -> GenerationConfig:
    """Greedy, without penalties, stopping at the right tokens: what a trained folder ships for other tools.

    Every field is set, because transformers fills those left None from the model's own config: the one that Qwen2.5
    ships carries a repetition penalty of 1.1, which `do_sample=False` does not switch off and which punishes copying
    the input, the very thing this task asks for.
    """
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
