"""Duplicate rows: equal except for punctuation, width and case, or nearly equal.

In: examples, by split. Out: pairs of examples, or groups of texts. Knows nothing of labels, files or tokens.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal

from ...entities import Example

if TYPE_CHECKING:
    import numpy as np

SIMILAR = 0.7
"""Share of common bigrams that makes two texts near-duplicates: about three of 37 characters may differ."""

COMPARED = 1_000
"""Earlier texts that one is compared with at most, those that share its rarest bigrams first. Rows of one template are
all alike: to compare each two of them would take hours."""

Likeness = Literal["identical", "equal", "similar"]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two rows of the splits `splits`; `similarity` is the share of common bigrams, 1.0 if equal."""

    splits: tuple[str, str]
    rows: tuple[Example, Example]
    likeness: Likeness
    similarity: float = 1.0


def bare(text: str) -> str:
    """The letters and digits of a text, narrow and in lower case: the text without how it was typed.

    NFKC, casefold, then without punctuation, symbols, spaces and control characters, unless nothing would be left.

    >>> bare("三星ＷＣＧ２０１１，北京！"), bare("……")
    ('三星wcg2011北京', '......')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if unicodedata.category(char)[0] in "LMN") or folded


def digest(text: str) -> bytes:
    """Eight bytes, the same for texts that are equal but for punctuation, width and case."""
    return blake2b(bare(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def digests(examples: Iterable[Example]) -> np.ndarray:
    """The `digest` of each text, as an integer."""
    import numpy as np

    return np.fromiter((int.from_bytes(digest(e.text), "big") for e in examples), np.uint64)


def leaks(train: Sequence[Example], held_out: Sequence[Example]) -> list[tuple[Example, Example]]:
    """(row of train, row of held_out) for each held-out row whose text is in train.

    Punctuation, width and case are ignored. In the order of `held_out`, with the first such row of train.

    >>> train, held_out = [Example("0", "三星WCG，北京")], [Example("0", "三星ｗｃｇ北京。"), Example("1", "三星")]
    >>> [(a.text, b.text) for a, b in leaks(train, held_out)]
    [('三星WCG，北京', '三星ｗｃｇ北京。')]
    """
    first: dict[str, Example] = {}
    for example in train:
        first.setdefault(bare(example.text), example)
    return [(known, example) for example in held_out if (known := first.get(bare(example.text))) is not None]


def near_duplicates(splits: Mapping[str, Sequence[Example]]) -> list[Duplicate]:
    """Each row that repeats an earlier one, with the first such row, in the order of the rows.

    Texts that are `identical`, or `equal` as `leaks` compares them, are paired with the first of their kind, so that n
    of them make n - 1 pairs. Two kinds are `similar` if the Jaccard index of their sets of character bigrams is at
    least `SIMILAR`; each is paired with the most similar one. Not all pairs are compared: bigrams are looked up from
    the rarest on, and two similar texts share one of the first few (prefix filtering, Bayardo et al. 2007, "Scaling up
    all pairs similarity search"). Where very many texts are alike, each is compared with `COMPARED` of them.

    >>> rows = [Example("0", "今天天气很好"), Example("1", "今天天气很好！"), Example("2", "今天天气很好啊")]
    >>> [(d.rows[0].id, d.rows[1].id, d.likeness, round(d.similarity, 2)) for d in near_duplicates({"train": rows})]
    [('0', '1', 'equal', 1.0), ('0', '2', 'similar', 0.83)]
    """
    firsts: dict[str, tuple[str, Example]] = {}
    found: list[Duplicate] = []
    for split, examples in splits.items():
        for example in examples:
            text = bare(example.text)
            if text not in firsts:
                firsts[text] = split, example
                continue
            known, first = firsts[text]
            likeness: Likeness = "identical" if first.text == example.text else "equal"
            found.append(Duplicate((known, split), (first, example), likeness))
    kinds = list(firsts.values())
    most_similar: dict[int, tuple[float, int]] = {}
    for one, other, share in _similar([grams(text, 2) for text in firsts], SIMILAR):
        if share > most_similar.get(other, (0.0, 0))[0]:
            most_similar[other] = share, one
    for other, (share, one) in most_similar.items():
        (split, first), (later_split, later) = kinds[one], kinds[other]
        found.append(Duplicate((split, later_split), (first, later), "similar", share))
    return found


def groups_of_alike(texts: Sequence[str], names: Sequence[str] = ()) -> list[list[int]]:
    """The numbers of `texts`, so grouped that no two texts of different groups are alike (see `near_duplicates`).

    Two texts of one group need not be alike, if others lie between them; where a text is like very many others, it is
    compared with `COMPARED` of them. `names` has what each text belongs to, or "": those of one name are in one group.
    Groups and numbers are in the texts' order.

    >>> groups_of_alike(["今天天气很好", "下雨了", "今天天气很好啊", "今天天气很好！"])
    [[0, 2, 3], [1]]
    """
    numbers: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        numbers.setdefault(bare(text), []).append(number)
    kinds = list(numbers)
    group_of = [[kind] for kind in range(len(kinds))]
    alike = ((one, other) for one, other, _ in _similar([grams(text, 2) for text in kinds], SIMILAR))
    named: dict[str, int] = {}
    kind_of = {number: kind for kind, text in enumerate(kinds) for number in numbers[text]}
    of_one_name = ((named.setdefault(name, kind_of[n]), kind_of[n]) for n, name in enumerate(names) if name)
    for one, other in chain(alike, of_one_name):
        smaller, larger = sorted((group_of[one], group_of[other]), key=len)
        if smaller is not larger:
            larger += smaller
            for kind in smaller:
                group_of[kind] = larger
    groups = {id(group): group for group in group_of}.values()
    return sorted(sorted(number for kind in group for number in numbers[kinds[kind]]) for group in groups)


def grams(text: str, size: int) -> set[str]:
    """The sequences of `size` characters in a text; of one that is shorter, the text."""
    return {text[at : at + size] for at in range(max(1, len(text) - size + 1))}


def _similar(sets: Sequence[set[str]], least: float) -> Iterator[tuple[int, int, float]]:
    """(i, j, Jaccard index) of each two sets with i < j that are similar enough, by j and then by i."""
    frequency = Counter(gram for grams in sets for gram in grams)
    having: dict[str, list[int]] = defaultdict(list)
    for j, grams in enumerate(sets):
        rarest = sorted(grams, key=lambda gram: (frequency[gram], gram))
        # Sets with a Jaccard index of t share t·|set| grams, so one of the |set| - ⌈t·|set|⌉ + 1 rarest.
        # Floating-point error is tolerated: 0.7 · 10 must not become 8.
        prefix = rarest[: len(rarest) - math.ceil(least * len(rarest) - 1e-9) + 1]
        for i in sorted(set(islice(chain.from_iterable(having[gram] for gram in prefix), COMPARED))):
            if least * len(grams) <= len(sets[i]) <= len(grams) / least:
                common = len(grams & sets[i])
                share = common / (len(grams) + len(sets[i]) - common)
                if share >= least:
                    yield i, j, share
        for gram in prefix:
            having[gram].append(j)
