"""Two bounds for the scores of a model: looking up the surfaces of the training data, and writing the gold surfaces.

In: examples. Out: predictions or scores to compare with those of a model. Knows nothing of models and files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from ..codec import Decoded
from ..entities import Example, LabelSet
from ..grounding import ground
from ..inline import CODECS
from .scoring import Pair, Scores, score


class Lookup:
    """The floor: every surface of `train` that occurs in a text, longest first, under its most frequent label.

    This is what a model without any understanding would find. Takes time linear in the text if surfaces are bounded.

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
            # The longest surface that begins here; the search goes on after it.
            for end in range(min(len(text), start + self.longest), start, -1):
                if (surface := text[start:end]) in self.label_of:
                    pairs[self.label_of[surface], surface] = None
                    start = end
                    break
            else:
                start += 1
        entities = ground(text, pairs)
        return Decoded(entities, tuple(dict.fromkeys((e.label, e.text) for e in entities)))


def ceiling(gold: Sequence[Example], labels: LabelSet, target: str = "json") -> Scores:
    """The scores of writing exactly the gold: less than 1 where the target cannot say all of it.

    JSON does not say where a surface is meant; an inline answer has one of the entities that overlap.
    """
    codec = CODECS[target](labels)
    return score(gold, [codec.decode(example.text, codec.encode(example)) for example in gold], labels)
