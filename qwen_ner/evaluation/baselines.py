"""Between what scores lie: what looking up train's surfaces gives, and what the format cannot lose.

In: examples. Out: predictions or scores to set beside those of a model. Knows nothing of models and files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from ..codec import Decoded, ground
from ..entities import Example, LabelSet
from .scoring import Pair, Scores, score


class Lookup:
    """The floor: every surface of `train` that stands in a text, longest first, under the label it most often has.

    What a model without any understanding would find. In time linear in the text for surfaces of bounded length.

    >>> from qwen_ner.entities import Entity
    >>> seen = Example("0", "三星在北京", (Entity("company", "三星", 0, 2),))
    >>> [entity.text for entity in Lookup([seen])("她在三星").entities]
    ['三星']
    """

    def __init__(self, train: Iterable[Example]) -> None:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for example in train:
            for label, surface in example.surfaces:
                counts[surface][label] += 1
        self.label_of = {surface: max(sorted(of), key=of.__getitem__) for surface, of in counts.items()}
        self.longest = max(map(len, self.label_of), default=0)

    def __call__(self, text: str) -> Decoded:
        pairs: dict[Pair, None] = {}
        start = 0
        while start < len(text):
            # The longest surface that begins here; what it covers is not looked at again.
            for end in range(min(len(text), start + self.longest), start, -1):
                if (surface := text[start:end]) in self.label_of:
                    pairs[self.label_of[surface], surface] = None
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
