"""How much a model believes in an annotation that it does not write itself.

In: an `Extractor`, annotated `Example`s and what it predicts for them. Out: confidences. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..codec import Decoded
from ..data.tokenize import prompt_ids, spelled_out
from ..entities import Example
from .extractor import Extractor


class Dictated:
    """A `backends.base.Constraint` that allows one answer alone: the backend says how likely the model finds it."""

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
    extractor: Extractor, examples: Sequence[Example], predicted: Sequence[Decoded], **options: int | None
) -> list[dict[tuple[str, str], float]]:
    """For each of `examples`, the confidence in each annotated (label, surface) that its prediction lacks.

    It is that of the model writing it where the annotation has it, behind what the annotation has before: the
    probability of its tokens from the end of the surface before it, so of the label's key too, calibrated as a
    surface's is. Where the annotation's answer does not fit into `max_new_tokens`, or the text is read in several
    windows, nothing is asked. `options` are those of `Backend.complete`.
    """
    wanted = [set(gold.surfaces) - set(found.surfaces) for gold, found in zip(examples, predicted, strict=True)]
    asked = [n for n, example in enumerate(examples) if wanted[n] and len(extractor.windows(example.text)) == 1]
    answers = {n: extractor.codec.encode(examples[n]) for n in asked}
    ids = {n: spelled_out(extractor.tokenizer, answers[n]) for n in asked}
    asked = [n for n in asked if len(ids[n]) < extractor.config.max_new_tokens]
    prompts = prompt_ids(extractor.tokenizer, extractor.codec, [examples[n].text for n in asked])
    limit = max((len(ids[n]) for n in asked), default=0) + 1
    completions = extractor.backend.complete(prompts, limit, [Dictated(ids[n]) for n in asked], **options)
    found: list[dict[tuple[str, str], float]] = [{} for _ in examples]
    for n, completion in zip(asked, completions, strict=True):
        for pair, logprob in extractor.log_probabilities(answers[n], completion, with_keys=True):
            if pair in wanted[n]:
                found[n][pair] = extractor.calibration(logprob)
    return found
