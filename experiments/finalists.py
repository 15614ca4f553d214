"""README's results: the runs of f1_budget.py that read dev, as rows of its table and as its picture.

In: f1_budget.jsonl. Out: finalists.png beside it, and the rows on standard output. `python experiments/finalists.py`
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from f1_budget import read, unpacked

RUNS = Path(__file__).with_name("f1_budget.jsonl")
WAYS = {
    "ours": "qwen_ner",
    "plain": "qwen_ner without two of its changes: label order, reduced loss",
    "trl": "TRL's SFTTrainer, padding-free",
    "mended": "a hand-written loop",
    "tutorial": "a hand-written loop, prompts cut at 50 tokens",
}
"""The settings by README's words, the best first. A learning rate that is joined to a setting's name is not told."""

Points = dict[str, dict[float, tuple[float, float, float]]]


def finalists(runs: Path = RUNS) -> Points:
    """The f1 on dev of each setting by its minutes, with the ends of its 95 % interval over the rows, in points."""
    from qwen_ner.evaluation.bootstrap import intervals, rates

    found: Points = {way: {} for way in WAYS}
    for run in read(runs):
        if (run["split"], run["decoding"]) == ("dev", "free"):
            counts, way = unpacked(run), run["setting"].partition("+learning_rate")[0]
            f1, around = rates(counts.sum(0), run["labels"])["f1"], intervals(counts, run["labels"])["f1"]
            found[way][run["minutes"]] = (100 * float(f1), 100 * around.low, 100 * around.high)
    return found


def cell(point: tuple[float, float, float]) -> str:
    """69.9 (68.0 – 71.7)"""
    return "{:.1f} ({:.1f} – {:.1f})".format(*point)


def draw(found: Points, target: Path) -> None:
    """f1 over the minutes, a line a setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for n, (way, points) in enumerate(found.items()):
        minutes = sorted(points)
        middle, low, high = np.array([points[each] for each in minutes]).T
        beside = [each + 0.4 * (n - 2) for each in minutes]  # else intervals hide each other
        axes.errorbar(beside, middle, yerr=(middle - low, high - middle), marker="o", capsize=3, label=WAYS[way])
    axes.set(xlabel="minutes of CPU time", ylabel="f1 on CLUENER's dev set", xlim=(20, 100), ylim=(20, 80))
    axes.set_xticks(sorted({each for points in found.values() for each in points}))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    found = finalists()
    for way, points in reversed(found.items()):
        print(WAYS[way], *(cell(points[minutes]) for minutes in sorted(points)), sep=" | ")
    draw(found, RUNS.with_name("finalists.png"))
