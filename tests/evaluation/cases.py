"""Random gold and predictions over few letters, so that surfaces recur, nest and cross."""

import json
import random

from qwen_ner.codec import Codec, Decoded
from qwen_ner.entities import Entity, Example, LabelSet

ABC = LabelSet.of(["a", "b", "c"])


def random_rows(seed: int, rows: int = 6) -> tuple[list[Example], list[Decoded]]:
    rng = random.Random(seed)
    gold, predicted = [], []
    for number in range(rows):
        text = "".join(rng.choices("甲乙丙丁", k=rng.randint(1, 8)))
        spans = set()
        for _ in range(rng.randint(0, 4)):
            start = rng.randrange(len(text))
            spans.add((rng.choice(ABC.names), start, min(len(text), start + rng.randint(1, 3))))
        gold.append(Example(str(number), text, tuple(Entity(x, text[s:e], s, e) for x, s, e in spans)))
        written: dict[str, list[str]] = {}
        for label, surface in gold[-1].surfaces:
            if rng.random() < 0.6:
                written.setdefault(label, []).append(surface)
        for _ in range(rng.randint(0, 3)):
            written.setdefault(rng.choice((*ABC.names, "x")), []).append("".join(rng.choices("甲乙丙丁", k=2)))
        completion, finished = json.dumps(written, ensure_ascii=False), True
        if rng.random() >= 0.9:
            completion, finished = ("[]" if number % 3 == 1 else '{"a":["甲'), number % 3 != 2
        predicted.append(Codec(ABC).decode(text, completion, finished=finished))
    return gold, predicted
