"""What a model says of annotated rows: what it finds, and how much it believes in what it does not find.

In: an `Extractor` and annotated `Example`s. Out: confidences, lines of JSON. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..codec import Decoded, entity_row
from ..composed import nfc
from ..data.tokenize import prompt_ids, spelled_out
from ..entities import Example
from .batch_predict import predict_each
from .extractor import Extractor


class Dictated:
    """A `backends.base.Constraint` that allows one answer alone: the backend says how likely the model finds it."""

    text, labels, target = "", (), ""  # of a server's grammar; no server can be made to write a given answer

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = ids
        self.restart()

    def restart(self) -> None:
        self.at = 0

    @property
    def closed(self) -> bool:
        return self.at == len(self.ids)

    def allows(self, token: int) -> bool:
        return not self.closed and self.ids[self.at] == token

    def allowed(self) -> list[int]:
        return list(self.ids[self.at : self.at + 1])

    def advance(self, token: int) -> None:
        if not self.allows(token):
            raise ValueError(f"token {token} may not come here")
        self.at += 1

    def forecast(self, limit: int) -> list[int]:
        return list(self.ids[self.at : self.at + limit])


def confidences_in(
    extractor: Extractor, examples: Sequence[Example], predicted: Sequence[Decoded]
) -> list[dict[tuple[str, str], float] | None]:
    """For each of `examples`, the confidence in each annotated (label, surface) that its prediction lacks.

    It is that of the model writing it where the annotation has it, behind what the annotation has before: the
    probability of its tokens, in JSON from the end of the surface before it, so of the label's key too, calibrated as
    a surface's is. None where that was not asked: the annotation's answer does not fit into `max_new_tokens`, or the
    text is longer than those of the training.
    """
    wanted = [set(gold.surfaces) - set(found.surfaces) for gold, found in zip(examples, predicted, strict=True)]
    asked = [n for n, example in enumerate(examples) if wanted[n] and len(extractor.windows(example.text)) == 1]
    answers = {n: extractor.codec.encode(examples[n]) for n in asked}
    ids = {n: spelled_out(extractor.tokenizer, answers[n]) for n in asked}
    asked = [n for n in asked if len(ids[n]) < extractor.config.max_new_tokens]
    prompts = prompt_ids(extractor.tokenizer, extractor.codec, [examples[n].text for n in asked])
    limit = max((len(ids[n]) for n in asked), default=0) + 1
    with extractor.lock:
        completions = extractor.backend.complete(prompts, limit, [Dictated(ids[n]) for n in asked])
    found: list[dict[tuple[str, str], float] | None] = [None if pairs else {} for pairs in wanted]
    for n, completion in zip(asked, completions, strict=True):
        logprobs = dict(reversed([*extractor.log_probabilities(answers[n], completion, with_keys=True)]))
        written = ((pair, (pair[0], nfc(pair[1]))) for pair in wanted[n])
        found[n] = {pair: extractor.calibration(logprobs[own]) for pair, own in written if own in logprobs}
    return found


def prediction_lines(extractor: Extractor, examples: Sequence[Example]) -> Iterator[dict[str, Any]]:
    """A line for each of `examples`, as `qwen-ner predict` writes it, and with `confidences_in`.

    "annotated" has the entities that `confidences_in` asks for, with these scores; it is absent where they were not
    asked. A text that does not fit into the model's context has an "error" instead.
    """
    found = predict_each(extractor, [example.text for example in examples], progress=True)
    fitting = [
        replace(example, entities=()) if isinstance(one, str) else example
        for example, one in zip(examples, found, strict=True)
    ]
    predicted = [Decoded() if isinstance(one, str) else one for one in found]
    asked = confidences_in(extractor, fitting, predicted)
    for example, one, confidences in zip(examples, found, asked, strict=True):
        if isinstance(one, str):
            yield {"id": example.id, "error": one}
            continue
        line = {"id": example.id, "text": example.text, "entities": [entity_row(entity) for entity in one.entities]}
        if confidences is not None:
            scored = [(e, confidences[e.label, e.text]) for e in example.entities if (e.label, e.text) in confidences]
            line["annotated"] = [entity_row(replace(entity, score=score)) for entity, score in scored]
        yield line
