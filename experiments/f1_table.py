"""The runs of f1_budget.py as a page: tables, a curve, and what is asked of the finalists.

In: the lines of its file. Out: Markdown that a terminal shows as well, and a picture. Several seeds of one setting are
one line: their mean, its interval over the rows, and each seed's f1. Two settings are compared over the seeds that both
have, in which they read the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Run = dict[str, Any]
VIEWS = ("f1", "span_f1", "macro_f1")
HEAD = """# F1 for a budget

Made of the runs in {runs} by `python experiments/f1_budget.py --table`; `--help` tells the protocol. Levers are sifted
in 10 minutes on rows held out of train, what does best there goes on to 30, and the finalists are read once on dev.
Intervals are of 95 % over the rows, p of a paired permutation test, differences to `{against}` in the same
minutes and with the same seeds; what the last lever gives is to the same setting without it (where decoding is not
free, to the same decoded freely). Of a run that was interrupted `train s` is the last part alone; `read s` are CPU
seconds a row.

Machine: {machines}."""


def write_page(runs: Sequence[Run], against: str, source: Path) -> str:
    """The page, written beside `source`, the file of the runs, with its picture where a setting has two budgets."""
    runs = same_name(runs)
    text = page(runs, against, source.name)
    if curves(runs):
        picture = source.with_suffix(".png")
        draw(runs, picture)
        text += f"\n![f1 over the minutes of training]({picture.name})\n"
    source.with_suffix(".md").write_text(text, encoding="utf-8")
    return text


def same_name(runs: Sequence[Run]) -> list[Run]:
    """The runs, with one name in a split for settings of the same fields: the first one's."""
    from f1_settings import setting

    names: dict[Any, str] = {}
    return [
        {**run, "setting": names.setdefault((run["split"], setting(run["setting"])), run["setting"])} for run in runs
    ]


def page(runs: Sequence[Run], against: str, name: str) -> str:
    """A table for each split and budget, the best first, and the words for the levers in them."""
    from common import machine
    from f1_settings import LEVERS

    machines = sorted({", ".join(f"{part} {run[part]}" for part in machine() if run[part]) for run in runs})
    parts = [HEAD.format(runs=name, against=against, machines="; ".join(machines))]
    for split, minutes in sorted({(run["split"], run["minutes"]) for run in runs}):
        here = [run for run in runs if (run["split"], run["minutes"]) == (split, minutes)]
        parts += [f"## {minutes:g} minutes of CPU time, {here[0]['rows']:,} rows {split}", table(here, against)]
    used = {lever for run in runs for lever in run["setting"].split("+")}
    levers = [(f"`{lever}`", words) for lever, (words, _) in LEVERS.items() if lever in used]
    parts += ["## Levers", align([("lever", "what it changes"), *levers])]
    return "\n\n".join(parts) + "\n"


def table(runs: Sequence[Run], against: str) -> str:
    """A line a setting and decoding of runs of one split and budget."""
    from f1_budget import unpacked
    from f1_settings import setting

    from qwen_ner.evaluation.bootstrap import rates

    groups: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        groups.setdefault((run["setting"], run["decoding"]), []).append(run)
    seeds = {key: {run["seed"]: unpacked(run) for run in some} for key, some in groups.items()}
    free = {setting(name): counts for (name, decoding), counts in seeds.items() if decoding == "free"}
    made = []
    for (name, decoding), some in groups.items():
        labels, counts = some[0]["labels"], seeds[name, decoding]
        each = {seed: rates(one.sum(0), labels) for seed, one in counts.items()}
        sure = over_seeds([*counts.values()], labels)
        means = {view: 100 * sum(float(one[view]) for one in each.values()) / len(each) for view in VIEWS}
        cells = [f"`{name}`", decoding, *(f"{mean:.2f} ({sure[view]})" for view, mean in means.items())]
        before = name if decoding != "free" else name.rpartition("+")[0] or "plain"
        for other in (against, before):
            same = decoding == "free" and setting(name) == setting(other)
            cells.append("" if same else difference(free.get(setting(other), {}), counts, labels))
        one = some[0]
        cells += [f"{one['rate']:.2f}", f"{one['trained_rows']:,}", f"{one['train_seconds']:,.0f}"]
        cells += [f"{one['read_seconds']:.2f}"]
        f1s = [f"{seed}: {100 * float(rate['f1']):.2f}" for seed, rate in each.items()]
        cells.append(", ".join(f1s) if len(f1s) > 1 else str(one["seed"]))
        made.append((-means["f1"], tuple(cells)))
    head = (
        "setting",
        "decoding",
        *VIEWS,
        f"f1 to {against}",
        "its last lever gives",
        "s a row",
        "rows",
        "train s",
        "read s",
        "seeds",
    )
    return align([head, *(cells for _, cells in sorted(made))])


def difference(a: dict[int, Any], b: dict[int, Any], labels: Sequence[str]) -> str:
    """The points of f1 of `b`, by seed, above `a`, over the seeds of both: nothing where there are none."""
    from qwen_ner.evaluation.bootstrap import differences

    both = sorted(a.keys() & b.keys())
    if not both:
        return ""
    sides = ([side[seed] for seed in both] for side in (a, b))
    found = next(each for each in differences(*sides, labels) if each.name == "f1")
    low, high = bounds(found.interval)
    p = found.p
    chance = "" if p is None else f", p {p:.{2 if p >= 0.1 else 3 if p >= 0.01 else 4}f}"
    return f"{100 * (found.b - found.a):+.2f} ({low:+.1f} … {high:+.1f}{chance})"


def align(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns stand below each other as text too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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


def curves(runs: Sequence[Run]) -> dict[str, dict[tuple[str, str], dict[float, list[Run]]]]:
    """Of each split the settings and decodings that have two budgets at least: their runs by minutes."""
    points: dict[str, dict[tuple[str, str], dict[float, list[Run]]]] = {}
    for run in runs:
        lines = points.setdefault(run["split"], {})
        lines.setdefault((run["setting"], run["decoding"]), {}).setdefault(run["minutes"], []).append(run)
    drawn = {
        split: {key: budgets for key, budgets in sorted(lines.items()) if len(budgets) > 1}
        for split, lines in sorted(points.items())
    }
    return {split: lines for split, lines in drawn.items() if lines}


def draw(runs: Sequence[Run], target: Path) -> None:
    """f1 over the minutes, a panel a split and a line a setting, with the intervals over the rows."""
    from f1_budget import unpacked
    from matplotlib.figure import Figure

    from qwen_ner.evaluation.bootstrap import rates

    panels = curves(runs)
    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    every = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (split, lines) in zip(every, panels.items(), strict=True):
        for n, ((name, decoding), budgets) in enumerate(lines.items()):
            x, middle, around = sorted(budgets), [], []
            for minutes in x:
                counts = [unpacked(run) for run in budgets[minutes]]
                labels = budgets[minutes][0]["labels"]
                f1 = 100 * sum(float(rates(one.sum(0), labels)["f1"]) for one in counts) / len(counts)
                low, high = bounds(over_seeds(counts, labels)["f1"])
                middle.append(f1)
                around.append((max(0.0, f1 - low), max(0.0, high - f1)))
            label = name if decoding == "free" else f"{name}, {decoding}"
            beside = [minutes * (1 + 0.01 * (n - len(lines) / 2)) for minutes in x]  # else intervals hide each other
            axes.errorbar(beside, middle, yerr=list(zip(*around, strict=True)), marker="o", capsize=3, label=label)
        minutes = sorted({minutes for budgets in lines.values() for minutes in budgets})
        axes.set(title=split, xlabel="minutes of CPU time", ylabel="f1", xscale="log")
        axes.set_xticks(minutes, [f"{one:g}" for one in minutes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="best")
    figure.savefig(target, dpi=120)
