"""The trained model as its users see it: texts in, entities with offsets out.

In: the folder of a trained model (full or adapter) or its Hub id, and texts. Out: entities. Knows nothing of training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from tqdm.auto import tqdm

from ..codec import Decoded, locate
from ..contract import NerConfig
from ..data.tokenize import prompt_ids
from ..entities import Entity, Example, NerError
from .backends.packed_linear import pack
from .backends.prefix_cache import PrefixCache
from .backends.torch import BATCH_TOKENS, generate
from .calibration import Calibration, Judged, surface_log_probability
from .constraints.grammar import Grammar
from .hub_download import local_folder
from .loading import check_limits, load_tokenizer, load_weights
from .windows import Window, windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

CHUNK = 1024
"""Windows that are prepared and sorted by length at a time: what is held of a long document beside its entities."""


class TextTooLong(NerError):
    """Texts that leave no room for an answer; `faults` has what is wrong with each, by its position."""

    def __init__(self, faults: dict[int, str]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"text {i}: {fault}" for i, fault in faults.items()))

    def __reduce__(self) -> Any:
        return TextTooLong, (self.faults,)


class Extractor:
    """Finds the entities of texts with one model.

    >>> extractor = Extractor.from_pretrained("outputs/quickstart")  # doctest: +SKIP
    >>> extractor.extract(["三星WCG2011北京赛区魔兽争霸3最终名次"])  # doctest: +SKIP
    [(Entity(label='company', text='三星', start=0, end=2, score=None), …)]
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: NerConfig) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.config = config
        self.codec = config.codec()
        self.prefix = PrefixCache()  # kept over calls: their prompts begin alike
        self.held_tokens: int | None = None  # what the memory held in a batch, once it did not hold what was asked for
        self.tokens = 0  # of prompts and answers so far, for those who count them

    @cached_property
    def calibration(self) -> Calibration:
        return Calibration(**self.config.calibration) if self.config.calibration else Calibration()

    @cached_property
    def grammar(self) -> Grammar:
        return Grammar(self.config.labels.names, self.tokenizer, self.config.end_token_ids)

    @cached_property
    def foresight(self) -> Grammar | None:
        """The grammar, where free decoding is only to be drafted and scored by it; None for a tokenizer without one."""
        try:
            return self.grammar
        except NerError as error:
            log.info("Answers are not drafted and have no scores: %s.", error)
            return None

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, revision: str | None = None, device: str | None = None, dtype: str | None = None
    ) -> Extractor:
        """Load what `qwen-ner train` wrote: an output_dir, a checkpoint of it, or a Hub id. An adapter is merged, and
        on a CPU the weights are laid out for inference (`packing`): `model` is not to be trained further.

        `device` defaults to the GPU where there is one. `dtype` defaults to bfloat16 there (if it has it) and float32
        on the CPU. Raises `NerError` where the folder lacks `ner_config.json`, tokenizer, chat template or weights.
        """
        path = local_folder(folder, revision)
        config = NerConfig.load(path)
        tokenizer = load_tokenizer(path)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if dtype is None:
            dtype = "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float32"
        model = load_weights(path, getattr(torch, dtype))
        check_limits(config, model, path)
        return cls(pack(model.to(device)), tokenizer, config)

    def extract(self, texts: Sequence[str], **options: Any) -> list[tuple[Entity, ...]]:
        """The entities of each text, in text order; `text[entity.start : entity.end] == entity.text` for each.

        `options` are those of `predictions`.
        """
        return [decoded.entities for decoded in self.predict(texts, **options)]

    def predict(self, texts: Sequence[str], **options: Any) -> list[Decoded]:
        """As `extract`, with what the model wrote wrongly beside the entities: see `Decoded.problems`."""
        return list(self.predictions(texts, **options))

    def predictions(
        self,
        texts: Iterable[str],
        *,
        constrained: bool = True,
        min_score: float = 0.0,
        thresholds: Literal["none", "auto"] = "none",
        batch_tokens: int = BATCH_TOKENS,
        progress: bool = False,
    ) -> Iterator[Decoded]:
        """As `predict`, one at a time, of texts that need not be held: they are gone through twice, so no iterator.

        `constrained` lets it write only what `grammar` allows for the text, which leaves nothing to be wrong; without,
        it is what the model writes by itself. A text longer than those that the model was trained for is read in
        `windows`. Entities carry a confidence (`calibration.surface_log_probability` says of what); those below
        `min_score`, and with `thresholds` "auto" below their label's threshold of the calibration, are left out.
        `progress` shows a bar on a terminal. Raises `TextTooLong` where a text, or a window of it, does not fit the
        model's context, before anything is generated; none is truncated.
        """
        if isinstance(texts, str):
            raise TypeError("extract takes a list of texts: extract([text])")
        total, faults = 0, dict[int, str]()
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"text {i} is {text!r}, not a string")
            windows = self.windows(text)
            total += len(windows)
            if overlong := self.overlong(text[window.start : window.end] for window in windows):
                faults[i] = next(iter(overlong.values()))
        if faults:
            raise TextTooLong(faults)
        floors = self.calibration.thresholds if thresholds == "auto" else {}
        pieces, of_text = self._pieces(texts), list[Decoded]()
        with tqdm(total=total, desc="Extracting", unit="text", disable=None if progress else True) as bar:
            while chunk := list(islice(pieces, CHUNK)):
                parts = [piece for piece, window, _ in chunk if window]
                decoded = iter(self.read(parts, constrained=constrained, batch_tokens=batch_tokens, on_rows=bar.update))
                for _, window, is_last in chunk:
                    if window:
                        kept = next(decoded).scored_at_least(lambda label: max(min_score, floors.get(label, 0.0)))
                        of_text.append(replace(kept, entities=window.entities(kept.entities)))
                    if is_last:
                        yield joined(of_text)
                        of_text = []

    def _pieces(self, texts: Iterable[str]) -> Iterator[tuple[str, Window | None, bool]]:
        """What to read, its window, and whether it is its text's last; no window for a text with nothing to read."""
        for text in texts:
            windows = self.windows(text)
            for n, window in enumerate(windows, start=1):
                yield text[window.start : window.end], window, n == len(windows)
            if not windows:
                yield "", None, True

    def windows(self, text: str) -> list[Window]:
        """The windows that `text` is read in, without those that hold nothing but white space."""
        length = self.config.window or max(4, len(text))
        return [window for window in windows(text, length) if text[window.start : window.end].strip()]

    def read(
        self,
        texts: Sequence[str],
        *,
        constrained: bool = True,
        batch_tokens: int = BATCH_TOKENS,
        on_rows: Callable[[int], object] = lambda rows: None,
    ) -> list[Decoded]:
        """What the model says of each of `texts`, as it stands: no windows, none may be `overlong`; with scores."""
        limit = self.config.max_new_tokens
        grammar = self.grammar if constrained else self.foresight
        guides = [grammar.constraint(text, limit) for text in texts] if grammar else None
        prompts = prompt_ids(self.tokenizer, self.codec, texts)
        generated = generate(
            self.model,
            prompts,
            max_new_tokens=limit,
            end_token_ids=self.config.end_token_ids,
            pad_token_id=self.tokenizer.pad_token_id,
            batch_tokens=min(batch_tokens, self.held_tokens or batch_tokens),
            prefix=self.prefix,
            constraints=guides if constrained else None,
            drafts=guides,
            on_rows=on_rows,
        )
        if generated.batch_tokens < batch_tokens:
            self.held_tokens = generated.batch_tokens
        self.tokens += sum(map(len, prompts)) + sum(map(len, generated.ids))
        completions = decode_ids(self.tokenizer, generated.ids)
        decoded = []
        for n, (text, completion) in enumerate(zip(texts, completions, strict=True)):
            scores = self._scores(completion, generated.ids[n], generated.logprobs[n])
            unmeant = generated.constraints[n].unmeant if constrained else frozenset()
            found = self.codec.decode(text, completion, finished=generated.finished[n], forced_surfaces=unmeant)
            decoded.append(found.scored(scores))
        return decoded

    def overlong(self, texts: Iterable[str]) -> dict[int, str]:
        """What is wrong with those of `texts` that leave no room for an answer, by their position."""
        room = self.model.config.max_position_embeddings - self.config.max_new_tokens
        (shortest,) = prompt_ids(self.tokenizer, self.codec, ["。"])
        faults: dict[int, str] = {}
        for i, text in enumerate(texts):
            # A token is a byte at least: what has few enough bytes need not be tokenized twice.
            if len(shortest) + len(text.encode("utf-8", "surrogatepass")) <= room:
                continue
            (prompt,) = prompt_ids(self.tokenizer, self.codec, [text])
            if len(prompt) > room:
                faults[i] = (
                    f"{text[:20]!r}… takes {len(prompt)} tokens with its prompt, the model has room for {room}; "
                    "split it"
                )
        return faults

    def _scores(self, completion: str, ids: Sequence[int], logprobs: Sequence[float]) -> dict[tuple[str, str], float]:
        """The confidence of each (label, surface) that `completion` spells; of one that comes twice, the first's."""
        if self.foresight is None:
            return {}
        spelling = self.foresight.vocabulary.bytes
        # A special token amid a free answer is in no vocabulary of bytes; its name stands in the completion.
        lengths = [len(spelling[token]) if token in spelling else len(self.tokenizer.decode(token)) for token in ids]
        scores: dict[tuple[str, str], float] = {}
        for label, surface, start, end in locate(completion):
            before = len(completion[:start].encode())
            after = before + len(completion[start:end].encode())
            logprob = surface_log_probability(logprobs, lengths, before, after)
            scores.setdefault((label, surface), self.calibration(logprob))
        return scores

    def judged(self, examples: Iterable[Example], predicted: Iterable[Decoded]) -> Iterator[Judged]:
        """What was predicted for `examples`, surface by surface: to calibrate a model by, or to see how well it is."""
        for gold, decoded in zip(examples, predicted, strict=True):
            for (label, surface), score in {(e.label, e.text): e.score for e in decoded.entities}.items():
                if score is not None:
                    yield Judged(label, score, (label, surface) in gold.surfaces)


def joined(parts: Sequence[Decoded]) -> Decoded:
    """What was found in the windows of one text, as one, without surfaces whose entities are all another window's."""
    if len(parts) == 1:
        return parts[0]
    surfaces: dict[tuple[str, str], None] = {}
    for part in parts:
        kept = {(e.label, e.text) for e in part.entities} | set(part.ungrounded)
        surfaces |= dict.fromkeys(pair for pair in part.surfaces if pair in kept)
    return Decoded(
        tuple(entity for part in parts for entity in part.entities),
        tuple(surfaces),
        tuple(problem for part in parts for problem in part.problems),
    )


def decode_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]) -> list[str]:
    """Completions as text, special tokens kept: one amid an answer is the model's fault and must be seen."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return [tokenizer.decode(row, **options) for row in ids]
