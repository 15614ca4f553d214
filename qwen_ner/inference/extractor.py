"""A trained model as its users see it: texts in, entities with offsets and confidences out.

In: the folder of a trained model (full or adapter) or its Hub id, and texts. Out: entities. Knows nothing of training,
and of the model only what a `Backend` says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from tqdm.auto import tqdm

from ..codec import Decoded
from ..contract import NerConfig
from ..data.tokenize import has_room, prompt_ids
from ..entities import Entity, NerError
from .asked import Asked, TextTooLong, too_long
from .backends.base import BATCH_TOKENS, Backend, Completion, Request, backend_class
from .calibration import Calibration, surface_log_probability
from .constraints.grammar import Constraint, Grammar
from .hub_download import local_folder
from .loading import check_limits, decode_ids, load_tokenizer
from .sampling import GREEDY, MAJORITY, Sampling, refuse_unscored, vote
from .windows import Window, join_windows, windows_to_read

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

CHUNK = 1024
"""Windows that are prepared and sorted by length at a time: what is held of a long document beside its entities and the
places of its windows."""
Answer = tuple[Completion, Constraint | None]  # what was written, and the guide that bound it


class Extractor:
    """Finds the entities of texts with one model: a `Backend`, or a transformers model, which the torch backend runs.
    Threads may share one; they take turns.

    >>> extractor = Extractor.from_pretrained("outputs/quickstart")  # doctest: +SKIP
    >>> extractor.extract(["三星WCG2011北京赛区魔兽争霸3最终名次"])  # doctest: +SKIP
    [(Entity(label='company', text='三星', start=0, end=2, score=0.9637), …)]
    """

    def __init__(self, model: PreTrainedModel | Backend, tokenizer: PreTrainedTokenizerBase, config: NerConfig) -> None:
        if not isinstance(model, Backend):
            model = backend_class("torch")(model, config.end_token_ids, tokenizer.pad_token_id)
        self.backend: Backend = model
        self.tokenizer = tokenizer
        self.config = config
        self.codec = config.codec()
        self.lock = Lock()

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, revision: str | None = None, backend: str = "torch", **options: str | None
    ) -> Extractor:
        """Load what `qwen-ner train` wrote: an output_dir, a checkpoint in it, or a Hub id.

        `backend` is a name in `backends.base.BACKENDS`, or the address of a server that has this model
        (`http://host:port/v1`); `options` are those of its `load`: `device` and `dtype`, which default to what suits
        it. Raises `NerError` if the folder lacks `ner_config.json`, a tokenizer, a chat template or weights.
        """
        path = local_folder(folder, revision)
        config = NerConfig.load(path)
        tokenizer = load_tokenizer(path)
        if "://" in backend:
            backend, options = "http", options | {"url": backend}
        loaded = backend_class(backend).load(path, tokenizer, config, **options)
        check_limits(config, loaded.max_length, len(tokenizer), path)
        return cls(loaded, tokenizer, config)

    @property
    def model(self) -> Any:
        """The transformers model of the torch backend; other backends may have none."""
        return self.backend.model  # type: ignore[attr-defined]

    @cached_property
    def calibration(self) -> Calibration:
        return Calibration(**self.config.calibration or {})

    @cached_property
    def _thresholds(self) -> Mapping[str, float]:
        if not self.calibration.thresholds:
            log.warning("thresholds auto leaves nothing out: the model was saved without calibrated thresholds.")
        return self.calibration.thresholds

    @cached_property
    def grammar(self) -> Grammar:
        config = self.config
        return Grammar(config.labels.names, self.tokenizer, config.end_token_ids, config.target)

    @cached_property
    def _grammar_or_none(self) -> Grammar | None:
        """The grammar where it is not enforced, but drafts answers and scores them."""
        try:
            return self.grammar
        except NerError as error:
            log.info("Answers have no scores and are not drafted: %s.", error)
            return None

    def extract(self, texts: Iterable[str], **options: Any) -> list[tuple[Entity, ...]]:
        """The entities of each text, in text order: `text[entity.start : entity.end] == entity.text`. `options` are
        those of `predictions`."""
        return [decoded.entities for decoded in self.predictions(texts, **options)]

    def predict(self, texts: Iterable[str], **options: Any) -> list[Decoded]:
        """Like `extract`, with the problems of what the model wrote beside the entities: see `Decoded.problems`."""
        return list(self.predictions(texts, **options))

    def predictions(
        self,
        texts: Iterable[str],
        *,
        constrained: bool = True,
        min_score: float | None = None,
        thresholds: Literal["none", "auto"] = "none",
        samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        beams: int = 1,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> Iterator[Decoded]:
        """Like `predict`, one text at a time. Goes through `texts` several times; an iterator is made a list first.

        `constrained` lets the model write only what `grammar` allows for the text, so that nothing can be wrong with
        its form; otherwise it writes freely. A text longer than those of the training is read in `windows`.

        Each entity has a confidence (`calibration.surface_log_probability` says of what). Those below `min_score` are
        left out, and with `thresholds` "auto" those below the calibrated threshold of their label. `batch_tokens`
        bounds the tokens in a batch, prompts and answers. `progress` shows a bar on a terminal.

        With a `temperature`, answers are drawn as `Sampling` says. One drawn answer is scored like a greedy one. Of
        several `samples` the score is the share of the answers that have the surface, uncalibrated, and `min_score`
        defaults to 0.5: see `sampling.vote`. Of several `beams`, which need `constrained`, it is the summed probability
        of those that have the surface; a lower `min_score` gives more candidates.

        Raises `TextTooLong` before anything is generated if a text, or a window of it, does not fit into the model's
        context; no text is truncated. Raises `NerError` for what `Sampling` and its `check` refuse.
        """
        sampling = Sampling(samples, temperature, top_p, beams)
        sampling.check(thresholds, constrained)
        least = sampling.floor(min_score)
        if isinstance(texts, str):
            raise TypeError("extract takes a list of texts: extract([text])")
        texts = list(texts) if isinstance(texts, Iterator) else texts
        own, faults = list[list[Window]](), dict[int, str]()
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"text {i} is {text!r}, not a string")
            own.append(self.windows(text))
            if fault := next(filter(None, map(self.overlong, _cut(text, own[i]))), None):
                faults[i] = fault
        if faults:
            raise TextTooLong(faults)
        floors = self._thresholds if thresholds == "auto" else {}
        filters = (least or floors) and samples == beams == 1  # several answers are scored by their votes
        waiting = (part for text, windows in zip(texts, own, strict=True) for part in _cut(text, windows))
        chunks = iter(lambda: list(islice(waiting, CHUNK)), [])
        unit, off = "text" if samples == 1 else "answer", None if progress else True
        with tqdm(total=sum(map(len, own)) * samples, desc="Extracting", unit=unit, disable=off) as bar:
            read = partial(self.read, constrained=constrained, batch_tokens=batch_tokens, on_rows=bar.update)
            found = (decoded for chunk in chunks for decoded in read(chunk, sampling=sampling, share=least))
            for windows in own:
                parts = [(window, next(found)) for window in windows]
                if filters and any(part.logprob is None or self._grammar_or_none is None for _, part in parts):
                    refuse_unscored(least, thresholds)
                yield join_windows(parts, lambda label: max(least, floors.get(label, 0.0)))

    def windows(self, text: str) -> list[Window]:
        """The windows that `text` is read in, without those that hold only white space."""
        fits = partial(has_room, codec=self.codec, tokenizer=self.tokenizer, limit=self.config.max_new_tokens)
        return windows_to_read(text, self.config.window or max(4, len(text)), fits)

    def read(
        self,
        texts: Sequence[str],
        *,
        constrained: bool = True,
        sampling: Sampling = GREEDY,
        share: float = MAJORITY,
        **options: Any,
    ) -> list[Decoded]:
        """What the model says of each of `texts`, with scores. Texts are read whole: none may be `overlong`.

        Of several answers it is what at least this `share` of them says. `options`: see `Backend.complete`.
        """
        limit, number = self.config.max_new_tokens, sampling.samples
        copies = [text for text in texts for _ in range(number)]
        if sampling.temperature:
            options["draws"] = [draw for text in texts for draw in sampling.draws(text)]
        with self.lock:  # what a backend keeps between calls is for one at a time
            grammar = self.grammar if constrained else self._grammar_or_none
            guides = [grammar.constraint(text, limit) for text in copies] if grammar else None
            prompts = [one for one in prompt_ids(self.tokenizer, self.codec, texts) for _ in range(number)]
            found: Sequence[Sequence[Answer]]
            if guides and sampling.beams > 1:
                found = self.backend.search(prompts, limit, guides, sampling.beams, **options)
            else:
                constraints = guides if constrained else None
                completions = self.backend.complete(prompts, limit, constraints, hints=guides, **options)
                bound: Sequence[Constraint | None] = constraints or [None] * len(copies)
                answers = list(zip(completions, bound, strict=True))
                found = [answers[start : start + number] for start in range(0, len(copies), number)]
        return [self._decode(text, own, share, sampling.beams > 1) for text, own in zip(texts, found, strict=True)]

    def serve(
        self, feed: Callable[[int], Sequence[Asked]], *, sampling: Sampling = GREEDY, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        """Read what `feed` gives, as `read` would, until it gives nothing and all is answered.

        `feed(tokens)` gives texts that wait, none `overlong`, for about so many tokens with prompts and answers; one at
        least, if any waits. It is asked again while others are read, which what it gives joins if the backend can do
        that. If this raises, those without an answer may be asked for again.
        """
        sampling.check(joining=True)

        def requests(tokens: int) -> list[Request]:
            asked = feed(tokens)
            prompts = prompt_ids(self.tokenizer, self.codec, [one.text for one in asked]) if asked else []
            return [request for own in zip(asked, prompts, strict=True) for request in self._requests(*own, sampling)]

        with self.lock:
            self.backend.serve(requests, self.config.max_new_tokens, batch_tokens=batch_tokens)

    def _requests(self, asked: Asked, prompt: Sequence[int], sampling: Sampling) -> list[Request]:
        """A request for each answer to `asked`, which is answered with the last of them: if all were written."""
        draws = sampling.draws(asked.text) if sampling.temperature else [None]
        guides = [self.grammar.constraint(asked.text, self.config.max_new_tokens) for _ in draws]
        written: dict[int, Completion | None] = {}

        def take(number: int, completion: Completion | None) -> None:
            written[number] = completion
            if len(written) < len(guides):
                return
            answers = [(one, guides[n]) for n, one in sorted(written.items()) if one]
            if len(answers) < len(guides):
                asked.answer(None, 0)
                return
            tokens = len(prompt) + sum(len(one.ids) for one, _ in answers)
            asked.answer(self._decode(asked.text, answers, asked.share), tokens)

        both = zip(guides, draws, strict=True)
        return [Request(prompt, guide, partial(take, n), asked.cancelled, draw) for n, (guide, draw) in enumerate(both)]

    def _decode(self, text: str, written: Sequence[Answer], share: float = MAJORITY, searched: bool = False) -> Decoded:
        """What is `written` of `text`: of several answers what at least this `share` of them says; of those that were
        `searched` for each counts as much as it is probable."""
        found = []
        answers = decode_ids(self.tokenizer, [completion.ids for completion, _ in written])
        for answer, (completion, guide) in zip(answers, written, strict=True):
            forced = guide.forced_surfaces if guide else frozenset[tuple[str, str]]()
            decoded = self.codec.decode(text, answer, finished=completion.finished, forced_surfaces=forced)
            scores = [(pair, self.calibration(p)) for pair, p in self.log_probabilities(answer, completion)]
            found.append(replace(self.codec.scored(decoded, scores), logprob=completion.logprob))
        if len(found) == 1 and not searched:
            return found[0]
        probabilities = [completion.probability for completion, _ in written] if searched else None
        return vote(text, found, self.config.labels, share, probabilities, located=self.codec.located)

    def overlong(self, text: str) -> str | None:
        """What is wrong with `text` if it leaves no room for an answer; None if it leaves some."""
        room = self.backend.max_length - self.config.max_new_tokens
        return too_long(text, room, self._shortest, lambda text: len(prompt_ids(self.tokenizer, self.codec, [text])[0]))

    @cached_property
    def _shortest(self) -> int:
        return len(prompt_ids(self.tokenizer, self.codec, ["。"])[0])

    def log_probabilities(
        self, answer: str, completion: Completion, *, with_keys: bool = False
    ) -> Iterator[tuple[tuple[str, str], float]]:
        """Each (label, surface) that `answer` spells, with `surface_log_probability`; nothing if the backend has none.

        `with_keys` counts what stands before the surface too, from the end of the one before it: the key of its label.
        """
        if self._grammar_or_none is None or completion.logprobs is None:
            return
        spelling = self._grammar_or_none.vocabulary.bytes
        # A special token in a free answer is not in the vocabulary of bytes; its name stands in the answer.
        lengths = [len(spelling.get(token) or self.tokenizer.decode(token).encode()) for token in completion.ids]
        for label, surface, start, end in self.codec.locate(answer, with_keys=with_keys):
            first, last = len(answer[:start].encode()), len(answer[:end].encode())
            yield (label, surface), surface_log_probability(completion.logprobs, lengths, first, last)


def _cut(text: str, windows: Iterable[Window]) -> Iterator[str]:
    return (text[window.start : window.end] for window in windows)
