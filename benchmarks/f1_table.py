"""The runs of f1_budget.py as a table and as a curve.

In: the lines of its file. Out: lines of text, a picture. Several seeds of one setting are one line: their mean, its
interval over the rows, and each seed's f1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Run = dict[str, Any]
VIEWS = ("f1", "span_f1", "macro_f1")


def table(runs: Sequence[Run], against: str = "plain") -> list[str]:
    """A line a setting, budget and decoding, the best first; differences are to `against`, decoded freely."""
    from f1_budget import unpacked

    from qwen_ner.evaluation.bootstrap import differences, rates

    lines: list[str] = []
    for split in sorted({run["split"] for run in runs}):
        for minutes in sorted({run["minutes"] for run in runs if run["split"] == split}):
            here = [run for run in runs if (run["split"], run["minutes"]) == (split, minutes)]
            groups: dict[tuple[str, str], list[Run]] = {}
            for run in sorted(here, key=lambda run: run["seed"]):
                groups.setdefault((run["setting"], run["decoding"]), []).append(run)
            lines += [
                "",
                f"{here[0]['rows']} rows, {split} · {minutes:g} minutes of CPU time",
                f"{'setting':<34}{'decoding':<13}{''.join(f'{view:<20}' for view in VIEWS)}"
                f"{f'to {against}':>10}  {'95 %':<15}{'p':>7}{'rows':>7}{'train s':>9}{'read s':>8}  seeds",
            ]
            other = groups.get((against, "free"))
            made = []
            for (name, decoding), some in groups.items():
                labels = some[0]["labels"]
                counts = [unpacked(run) for run in some]
                each = [rates(one.sum(0), labels) for one in counts]
                means = {view: 100 * sum(float(one[view]) for one in each) / len(each) for view in VIEWS}
                sure = over_seeds(counts, labels)
                line = f"{name:<34}{decoding:<13}"
                line += "".join(f"{f'{mean:.2f} ({sure[view]})':<20}" for view, mean in means.items())
                if other and some is not other:
                    both = differences([unpacked(run) for run in other], counts, labels)
                    change = next(d for d in both if d.name == "f1")
                    ends = bounds(change.interval)
                    p = "" if change.p is None else f"{change.p:.4f}"
                    shown = f"{ends[0]:+.1f} – {ends[1]:+.1f}"
                    line += f"{100 * (change.b - change.a):>+10.2f}  {shown:<15}{p:>7}"
                else:
                    line += " " * 34
                seeds = " ".join(
                    f"{run['seed']}:{100 * float(one['f1']):.2f}" for run, one in zip(some, each, strict=True)
                )
                one = some[0]
                line += f"{one['trained_rows']:>7}{one['train_seconds']:>9.0f}{one['read_seconds']:>8.3f}  {seeds}"
                made.append((-means["f1"], line))
            lines += [line for _, line in sorted(made)]
    return lines


BOUNDS = {"mended": 5.0, "trl": 3.0, "plain": 2.0}
"""Points of f1 by which `ours` is to be better on dev, trained for 90 minutes, and not by chance."""


def claims(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What is asked of the finalists: a rival's setting may have more joined to its name, such as its learning rate."""
    from common import claim
    from f1_budget import unpacked

    from qwen_ner.evaluation.bootstrap import differences

    final = [run for run in runs if (run["split"], run["minutes"], run["decoding"]) == ("dev", 90, "free")]
    sides: dict[str, list[Run]] = {}
    for run in final:
        sides.setdefault(run["setting"].split("+")[0], []).append(run)
    made = []
    for rival, bound in BOUNDS.items():
        if "ours" in sides and rival in sides:
            a, b = ([unpacked(run) for run in sides[name]] for name in (rival, "ours"))
            found = next(d for d in differences(a, b, final[0]["labels"]) if d.name == "f1")
            made.append(claim(f"points of f1 over {rival}", 100 * (found.b - found.a), bound))
            if found.p is not None:
                made.append(claim(f"p of being better than {rival}", found.p, 0.05, at_most=True))
    return made


def bounds(interval: Any) -> tuple[float, float]:
    return 100 * interval.low, 100 * interval.high


def over_seeds(counts: Sequence[Any], labels: Sequence[str]) -> dict[str, Any]:
    """The intervals of the rates of one run, or of their means over some: the same rows drawn for each."""
    from qwen_ner.evaluation.bootstrap import intervals

    # A rate of the summed counts is the rates' mean but for second order, as the runs read the same rows.
    return intervals(sum(counts[1:], counts[0]), labels)


def draw(runs: Sequence[Run], target: Path) -> Path:
    """f1 over the minutes, a line a setting that has two budgets at least, with the intervals of the rows."""
    from f1_budget import unpacked
    from matplotlib.figure import Figure

    from qwen_ner.evaluation.bootstrap import rates

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    points: dict[tuple[str, str, str], dict[float, list[Run]]] = {}
    for run in runs:
        key = (run["setting"], run["decoding"], run["split"])
        points.setdefault(key, {}).setdefault(run["minutes"], []).append(run)
    for (name, decoding, split), budgets in points.items():
        if len(budgets) < 2:
            continue
        x = sorted(budgets)
        middle, low, high = [], [], []
        for minutes in x:
            counts = [unpacked(run) for run in budgets[minutes]]
            labels = budgets[minutes][0]["labels"]
            f1 = 100 * sum(float(rates(one.sum(0), labels)["f1"]) for one in counts) / len(counts)
            ends = bounds(over_seeds(counts, labels)["f1"])
            middle.append(f1)
            low.append(max(0.0, f1 - ends[0]))
            high.append(max(0.0, ends[1] - f1))
        axes.errorbar(x, middle, yerr=(low, high), marker="o", capsize=3, label=f"{name} · {decoding} · {split}")
    axes.set(xlabel="minutes of CPU time", ylabel="f1")
    axes.legend(fontsize="small")
    figure.savefig(target, dpi=120)
    return target
