"""Between what scores lie: what looking up train's surfaces gives, and what the format cannot lose.

In: examples. Out: predictions or scores to set beside those of a model. Knows nothing of models and files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from ..codec import Decoded, ground
from ..entities import Example, LabelSet
from .scoring import Pair, Scores, score


def lookup(train: Iterable[Example], texts: Sequence[str]) -> list[Decoded]:
    """The floor: every surface of `train` that stands in a text, longest first, under the label it most often has.

    What a model without any understanding would find. In time linear in the texts for surfaces of bounded length.

    >>> from qwen_ner.entities import Entity
    >>> seen = Example("0", "三星在北京", (Entity("company", "三星", 0, 2),))
    >>> [entity.text for entity in lookup([seen], ["她在三星"])[0].entities]
    ['三星']
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for example in train:
        for label, surface in example.surfaces:
            counts[surface][label] += 1
    label_of = {surface: max(sorted(of), key=of.__getitem__) for surface, of in counts.items()}
    longest = max(map(len, label_of), default=0)
    return [_looked_up(text, label_of, longest) for text in texts]


def _looked_up(text: str, label_of: dict[str, str], longest: int) -> Decoded:
    pairs: dict[Pair, None] = {}
    start = 0
    while start < len(text):
        # The longest surface that begins here; what it covers is not looked at again.
        for end in range(min(len(text), start + longest), start, -1):
            if (surface := text[start:end]) in label_of:
                pairs[label_of[surface], surface] = None
                start = end
                break
        else:
            start += 1
    entities = ground(text, pairs)
    return Decoded(entities, tuple(dict.fromkeys((e.label, e.text) for e in entities)))


def ceiling(gold: Sequence[Example], labels: LabelSet) -> Scores:
    """What a model that writes exactly the gold surfaces would score: in the span view grounding loses the rest."""
    perfect = [Decoded(ground(example.text, example.surfaces), example.surfaces) for example in gold]
    return score(gold, perfect, labels)
