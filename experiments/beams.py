"""What does a beam search know that greedy decoding does not?

    python experiments/beams.py --quick
    python experiments/beams.py --model FOLDER --data cluener --rows 300 --out rows.jsonl --json report.json

Of each row held out of train, as the recipes hold them out (`--split dev`: of dev), the answers of a constrained beam
search: `--out` gets a line a row, and one that stands there is not read again. Told of them, with bootstrap intervals
over the rows:

- the oracle: f1 if of the 1, 2, 4, 8 likeliest answers (greedy's first) the best of each row were known;
- the decision by expected f1: the surfaces whose summed probability reaches a threshold, fitted on the other half;
- the calibration error of greedy's surfaces, with their own probability and with the summed one, as they are and fitted
  by `fit_calibration` on the other half of the rows;
- of the entities that greedy misses, how many stand in the fifth of the rows that are least sure.

A summed probability is that of all answers with the surface. Divided by what all answers found have together it is
worse calibrated: what is in all of them would be certain.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from common import claim, finish, machine, toy

from qwen_ner.inference.calibration import Judged, best_threshold, expected_calibration_error, fit_calibration

WIDTHS = (1, 2, 4, 8)
FIFTH = 0.2
RESAMPLES = 1000
Pair = tuple[str, str]


@dataclass(frozen=True)
class Read:
    """A row: what gold has, the answers, greedy's first, with their probabilities, and those of greedy's surfaces."""

    gold: frozenset[Pair]
    answers: tuple[frozenset[Pair], ...]
    probabilities: tuple[float, ...]
    own: dict[Pair, float]

    @classmethod
    def of(cls, line: dict[str, Any]) -> Read:
        answers = tuple(frozenset(map(tuple, answer["surfaces"])) for answer in line["answers"])
        own = {(label, surface): math.exp(logprob) for label, surface, logprob in line["greedy"]}
        probabilities = tuple(math.exp(answer["logprob"]) for answer in line["answers"])
        return cls(frozenset(map(tuple, line["gold"])), answers, probabilities, own)

    @property
    def greedy(self) -> frozenset[Pair]:
        return self.answers[0]

    @property
    def mass(self) -> float:
        return sum(self.probabilities)

    @cached_property
    def summed(self) -> dict[Pair, float]:
        found: dict[Pair, float] = defaultdict(float)
        for answer, probability in zip(self.answers, self.probabilities, strict=True):
            for pair in answer:
                found[pair] += probability
        return dict(found)

    def at_least(self, threshold: float) -> frozenset[Pair]:
        return frozenset(pair for pair, p in self.summed.items() if p >= threshold)

    def best_of(self, width: int) -> frozenset[Pair]:
        return max(self.answers[:width], key=lambda answer: f1(counts(answer, self.gold)))


def counts(found: frozenset[Pair], gold: frozenset[Pair]) -> np.ndarray:
    """True positives, predicted and annotated."""
    return np.array([len(found & gold), len(found), len(gold)])


def f1(summed: np.ndarray) -> Any:
    """Of counts (…, 3); 1 where there is neither gold nor prediction, so that the oracle prefers to be silent there."""
    hits, found, gold = np.moveaxis(summed, -1, 0)
    return np.where(found + gold > 0, 2 * hits / np.maximum(found + gold, 1), 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or a trained folder")
    parser.add_argument("--data", default="sample", help="cluener (with QWEN_NER_DATA), sample, or a JSONL file")
    parser.add_argument("--split", choices=("held out", "dev"), default="held out")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--beams", type=int, default=max(WIDTHS))
    parser.add_argument("--minutes", type=float, default=math.inf, help="read no further rows after so many")
    parser.add_argument("--out", type=Path, help="a line a row; added to")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="12 rows of the sample, read by the untrained toy")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            options.rows = 12
        options.out = options.out or Path(folder) / "rows.jsonl"
        read(options, Path(folder))
        rows = [Read.of(json.loads(line)) for line in options.out.read_text(encoding="utf-8").splitlines()]
    table = report(rows)
    for line in table:
        print(f"{line['what']:60}{line['value']:8.4f}  ({line['low']:.4f} – {line['high']:.4f})")
    known = {line["what"]: line["value"] for line in table}
    claims = [
        claim("oracle f1 of 8", known["oracle f1 of 8"], 0.82),
        claim("calibration error, summed, fitted", known["calibration error, summed, fitted"], 0.03, at_most=True),
        claim("missed in the least sure fifth, summed", known["missed in the least sure fifth, summed"], 0.45),
    ]
    finish({"machine": machine(), "rows": len(rows), "table": table, "claims": claims}, options.json)


def read(options: argparse.Namespace, folder: Path) -> None:
    """Add to `options.out` a line for each row that it lacks."""
    from qwen_ner.data.tokenize import prompt_ids
    from qwen_ner.inference.extractor import Extractor
    from qwen_ner.training.arguments import DataArguments
    from qwen_ner.training.preparation import read_splits

    splits = read_splits(DataArguments(dataset=options.data))
    examples = (splits.validation if options.split == "held out" else splits.final)[: options.rows]
    options.out.touch()
    done = len(options.out.read_text(encoding="utf-8").splitlines())
    if done >= len(examples):
        return
    extractor = Extractor.from_pretrained(toy(folder / "toy") if options.model == "tiny" else options.model)
    limit, began = extractor.config.max_new_tokens, time.monotonic()
    for start in range(done, len(examples), 12):
        some = examples[start : min(start + 12, len(examples))]
        prompts = prompt_ids(extractor.tokenizer, extractor.codec, [example.text for example in some])
        guides = [extractor.grammar.constraint(example.text, limit) for example in some]
        found = extractor.backend.search(prompts, limit, guides, options.beams)
        with options.out.open("a", encoding="utf-8") as out:
            for example, beams in zip(some, found, strict=True):
                out.write(json.dumps(line_of(extractor, example, beams), ensure_ascii=False) + "\n")
        if time.monotonic() - began > 60 * options.minutes:
            return


def line_of(extractor: Any, example: Any, beams: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    answers = []
    for completion, guide in beams:
        answer = extractor.tokenizer.decode(completion.ids)
        decoded = extractor.codec.decode(example.text, answer, forced_surfaces=guide.forced_surfaces)
        total = sum(completion.logprobs)
        answers.append({"logprob": total, "surfaces": list(decoded.surfaces), "answer": answer})
    own = dict[Pair, float]()
    for pair, logprob in extractor.log_probabilities(answers[0]["answer"], beams[0][0]):
        own.setdefault(pair, logprob)
    greedy = [[*pair, own[pair]] for pair in answers[0]["surfaces"]]
    return {"id": example.id, "gold": sorted(example.surfaces), "greedy": greedy, "answers": answers}


def report(rows: Sequence[Read]) -> list[dict[str, Any]]:
    table = []

    def tell(what: str, values: Callable[[np.ndarray], float]) -> None:
        """`values(chosen)` is the figure on the rows of these numbers, which may come several times."""
        generator = np.random.default_rng(0)
        drawn = [values(generator.integers(len(rows), size=len(rows))) for _ in range(RESAMPLES)]
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        table.append({"what": what, "value": values(np.arange(len(rows))), "low": float(low), "high": float(high)})

    def tell_f1(what: str, found: Sequence[frozenset[Pair]], against: Sequence[frozenset[Pair]] | None = None) -> None:
        one = np.array([counts(answer, row.gold) for answer, row in zip(found, rows, strict=True)])
        two = one if against is None else np.array([counts(a, r.gold) for a, r in zip(against, rows, strict=True)])
        tell(what, lambda chosen: float(f1(one[chosen].sum(0)) - (f1(two[chosen].sum(0)) if against else 0)))

    for width in WIDTHS:
        tell_f1(f"oracle f1 of {width}", [row.best_of(width) for row in rows])
    tell("probability of all answers, mean", lambda chosen: float(np.mean([rows[n].mass for n in chosen])))
    for name, of, found in (
        ("recall of greedy", 2, lambda row: row.greedy),
        ("recall of all answers", 2, lambda row: row.at_least(0.0)),
        ("recall from 0.01 on", 2, lambda row: row.at_least(0.01)),
        ("precision from 0.01 on", 1, lambda row: row.at_least(0.01)),
    ):
        hits = np.array([counts(found(row), row.gold) for row in rows])
        tell(name, lambda chosen, h=hits, of=of: float(h[chosen, 0].sum() / max(1, h[chosen, of].sum())))
    tell_f1("f1 from 0.5 on", [row.at_least(0.5) for row in rows])
    tell_f1("  less greedy's, from 0.5 on", [row.at_least(0.5) for row in rows], [row.greedy for row in rows])
    decided, thresholds = decide(rows)
    tell_f1(f"f1 by thresholds {' and '.join(f'{t:.2f}' for t in thresholds)}", decided)
    tell_f1("  less greedy's", decided, [row.greedy for row in rows])
    greedy = [row.greedy for row in rows]
    for name, score in SCORES.items():
        for kind in ("as it is", "fitted"):
            judged = judge(rows, score, greedy, fitted=kind == "fitted")
            tell(f"calibration error, {name}, {kind}", lambda chosen, judged=judged: error(judged, chosen))
    missed = np.array([len(row.gold - row.greedy) for row in rows])
    for name, sure in SURENESS.items():
        order = np.array([sure(row) for row in rows])
        tell(f"missed in the least sure fifth, {name}", lambda chosen, order=order: share(missed, order, chosen))
    return table


SCORES: dict[str, Callable[[Read, Pair], float]] = {
    "own": lambda row, pair: row.own[pair],
    "summed": lambda row, pair: row.summed[pair],
    "summed, divided": lambda row, pair: row.summed[pair] / row.mass,
}
SURENESS: dict[str, Callable[[Read], float]] = {
    "own, the least": lambda row: min(row.own.values(), default=1.0),
    "the answer's": lambda row: row.probabilities[0],
    "summed": lambda row: -sum(p for pair, p in row.summed.items() if pair not in row.greedy),
    "summed, both ways": lambda row: -sum(1 - p if pair in row.greedy else p for pair, p in row.summed.items()),
}


def halves(rows: Sequence[Read]) -> list[tuple[list[int], list[int]]]:
    """(fit on, use on): the even rows and the odd, and the other way round."""
    even, odd = list(range(0, len(rows), 2)), list(range(1, len(rows), 2))
    return [(even, odd), (odd, even)]


def decide(rows: Sequence[Read]) -> tuple[list[frozenset[Pair]], list[float]]:
    """Of each row the surfaces that reach the threshold of best f1 on the other half, and the two thresholds."""
    decided, thresholds = [frozenset[Pair]()] * len(rows), []
    for fit, use in halves(rows):
        judged = [(p, pair in rows[n].gold) for n in fit for pair, p in rows[n].summed.items()]
        threshold = best_threshold(*map(list, zip(*judged, strict=True)), sum(len(rows[n].gold) for n in fit))
        thresholds.append(threshold)
        for n in use:
            decided[n] = rows[n].at_least(threshold)
    return decided, thresholds


def judge(
    rows: Sequence[Read], score: Callable[[Read, Pair], float], found: Sequence[frozenset[Pair]], fitted: bool
) -> list[np.ndarray]:
    """Of each row an array (surface, 2): the confidence in each found surface, and whether gold has it."""

    def of(n: int) -> list[Judged]:
        row = rows[n]
        return [Judged(pair[0], score(row, pair), pair in row.gold) for pair in sorted(found[n])]

    judged: list[np.ndarray] = [np.empty((0, 2))] * len(rows)
    for fit, use in halves(rows):
        calibration = fit_calibration([one for n in fit for one in of(n)], {}) if fitted else math.exp
        for n in use:
            judged[n] = np.array(
                [(calibration(math.log(max(one.confidence, 1e-300))), one.correct) for one in of(n)]
            ).reshape(-1, 2)
    return judged


def error(judged: Sequence[np.ndarray], chosen: np.ndarray) -> float:
    return expected_calibration_error(*np.concatenate([judged[n] for n in chosen]).T)


def share(missed: np.ndarray, sureness: np.ndarray, chosen: np.ndarray) -> float:
    """Of what is missed in the `chosen` rows, the part that the least sure fifth of them holds."""
    last = chosen[np.argsort(sureness[chosen], kind="stable")][: math.ceil(FIFTH * len(chosen))]
    return float(missed[last].sum() / max(1, missed[chosen].sum()))


if __name__ == "__main__":
    main()
