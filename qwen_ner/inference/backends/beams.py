"""Beam search: of each prompt the answers that the model almost wrote.

In: a causal LM, prompts, and what each answer may be. Out: for each prompt several answers, greedy's own first. Running
out of memory is for its caller to handle. Knows nothing of what the answers mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Generic

import torch
from transformers import DynamicCache, PreTrainedModel

from .base import Completion, Guide
from .batch_cache import read_prompts
from .decoding import not_finite


@dataclass(frozen=True, slots=True)
class Beam(Generic[Guide]):
    """An answer while it is written, which its own `guide` has taken; `total` is its log-probability.

    `greedy` marks the one that takes the likeliest token at each step. `place` is its row in the batch.
    """

    guide: Guide
    greedy: bool = False
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0
    finished: bool = False
    done: bool = False
    place: int = 0

    @property
    def completion(self) -> Completion:
        return Completion(self.ids, self.finished, self.logprobs)


@dataclass
class BeamSearch:
    """Up to `beams` answers to each prompt: greedy's own, and the likeliest others that a search of this width finds.

    Log-probabilities are the model's own, among all tokens of the vocabulary, where the guide allows few too. No answer
    begins with another, so the probabilities of all that there are sum up to 1 at most. There is no length penalty. The
    beams of a prompt are the likeliest of those that are done and those that run. As a total only falls, what is done
    stays in place of what runs behind it, and the search ends when all are done.
    """

    model: PreTrainedModel
    ends: Sequence[int]
    pad_token_id: int
    limit: int
    beams: int

    def write(
        self, prompts: Sequence[Sequence[int]], guides: Sequence[Guide], prefix: DynamicCache
    ) -> list[list[Beam[Guide]]]:
        """The beams of each prompt, greedy's first, then from likely to unlikely; all prompts begin with `prefix`.

        Guides are copied at each step, so their states must be values; those given are left as they are.
        """
        batch, logits = read_prompts(self.model, prompts, prefix, self.pad_token_id)
        found = [[Beam(copy(guide), greedy=True, place=n)] for n, guide in enumerate(guides)]
        while True:
            steps = self._steps([beam for own in found for beam in own if not beam.done], logits[:, -1])
            found = [self._best(own, steps) for own in found]
            running = [beam for own in found for beam in own if not beam.done]
            if not running:
                return found
            if [beam.place for beam in running] != list(range(len(logits))):
                batch.keep([beam.place for beam in running])
            places = iter(range(len(running)))
            found = [[b if b.done else replace(b, place=next(places)) for b in own] for own in found]
            last = torch.tensor([[beam.ids[-1]] for beam in running])
            batch.extend(torch.ones_like(last))
            logits = batch.run(self.model, last, 1)

    def _steps(self, running: Sequence[Beam[Any]], logits: torch.Tensor) -> list[list[tuple[int, float]]]:
        """Of each of `running` the tokens that may follow, likeliest first, with their log-probabilities.

        Its guide is asked for the model's own choice first, as greedy decoding asks it.
        """
        for beam, choice in zip(running, logits.argmax(-1).tolist(), strict=True):
            beam.guide.allows(choice)
        allowed = [torch.tensor(beam.guide.allowed()) for beam in running]
        ids = torch.nn.utils.rnn.pad_sequence(allowed, batch_first=True, padding_value=-1).to(logits.device)
        scores = logits.gather(1, ids.clamp_min(0)) - logits.logsumexp(-1, keepdim=True)
        if not scores.isfinite().all():
            raise not_finite()
        best = scores.masked_fill(ids < 0, -torch.inf).topk(min(self.beams, ids.shape[1]))
        pairs = zip(ids.gather(1, best.indices).tolist(), best.values.tolist(), strict=True)
        return [[pair for pair in zip(*row, strict=True) if pair[1] > -math.inf] for row in pairs]

    def _best(self, own: Sequence[Beam[Guide]], steps: Sequence[Sequence[tuple[int, float]]]) -> list[Beam[Guide]]:
        """The beams of one prompt after a step: greedy's, and the likeliest of the others."""
        options = [(beam.total, beam, 0, 0.0) for beam in own if beam.done]
        greedy = next((option for option in options if option[1].greedy), None)
        for beam in own:
            if not beam.done:
                more = [(beam.total + logprob, beam, token, logprob) for token, logprob in steps[beam.place]]
                greedy = more.pop(0) if beam.greedy else greedy
                options += more
        assert greedy
        others = sorted((one for one in options if one is not greedy), key=lambda one: -one[0])[: self.beams - 1]
        first, *rest = (self._take(*one) for one in (greedy, *others))
        return [first, *(replace(beam, greedy=False) if beam.greedy else beam for beam in rest)]

    def _take(self, total: float, beam: Beam[Guide], token: int, logprob: float) -> Beam[Guide]:
        """`beam` with `token`, unless it is done."""
        if beam.done:
            return beam
        guide = copy(beam.guide)
        guide.advance(token)
        end = token in self.ends
        ids = beam.ids if end else (*beam.ids, token)
        finished = end or guide.closed
        done = finished or len(ids) == self.limit
        return Beam(guide, beam.greedy, ids, (*beam.logprobs, logprob), total, finished, done, beam.place)
