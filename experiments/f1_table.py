"""The runs of f1_budget.py as one JSON: scores with intervals, differences with p-values, what each lever is.

In: the lines of its file. Out: what the pages of results are made of, and a table for the terminal. Several seeds of
one setting are one line: their mean, its interval over the rows, and each seed's f1. Two settings are compared over the
seeds that both have, in which they read the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Run = dict[str, Any]
VIEWS = ("f1", "span_f1", "macro_f1")


def summary(runs: Sequence[Run], against: str) -> dict[str, Any]:
    """The report: `table`, a line a setting, split, budget and decoding, the best first; `levers`, in words;
    `measured`, when and on which commits the runs were recorded; `machine`; `claims`.

    A line has `f1`, `span_f1`, `macro_f1` and the f1 of each of `labels` as {value, low, high}, in points; `against`
    and `lever`, its difference to the setting `against` and to the same setting without its last lever (where decoding
    is not free, to the same decoded freely), as {value, low, high, p} or None. `repeated` tells what is wrong with the
    places of surfaces that stand more than once.
    """
    from common import machine
    from f1_budget import budget_of
    from f1_settings import LEVERS

    runs, table = same_name(runs), []
    budgets = {(run["split"], *budget_of(run)) for run in runs}
    for split, minutes, epochs in sorted(budgets, key=lambda key: (key[0], key[1] or 0, key[2] or 0)):
        here = [run for run in runs if (run["split"], *budget_of(run)) == (split, minutes, epochs)]
        table += lines(here, against)
    used = {lever for run in runs for lever in run["setting"].split("+")}
    recorded = [run["run"] for run in runs if "run" in run]
    return {
        "machine": {part: runs[0][part] for part in machine()},
        "measured": {
            "dates": sorted({one["date"] for one in recorded}),
            "commits": list(dict.fromkeys(one["commit"] for one in recorded)),
        },
        "against": against,
        "table": table,
        "levers": {lever: words for lever, (words, _) in LEVERS.items() if lever in used},
        "claims": claims(runs),
    }


def same_name(runs: Sequence[Run]) -> list[Run]:
    """The runs, with one name in a split for settings of the same fields: the first one's."""
    from f1_settings import setting

    names: dict[Any, str] = {}
    return [
        {**run, "setting": names.setdefault((run["split"], setting(run["setting"])), run["setting"])} for run in runs
    ]


def lines(runs: Sequence[Run], against: str) -> list[dict[str, Any]]:
    """A line a setting and decoding of runs of one split and budget, the best first."""
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
        mean = over_seeds([*counts.values()], labels)
        before = name if decoding != "free" else name.rpartition("+")[0] or "plain"
        compared = {}
        for key, other in (("against", against), ("lever", before)):
            same = decoding == "free" and setting(name) == setting(other)
            compared[key] = None if same else difference(free.get(setting(other), {}), counts, labels)
        made.append(
            {key: some[0][key] for key in ("setting", "decoding", "split", "minutes", "rows")}
            | {key: some[0][key] for key in ("epochs",) if some[0].get(key)}
            | {view: mean[view] for view in VIEWS}
            | {"labels": {label: mean[f"f1_{label}"] for label in labels}, **compared}
            | {key: some[0][key] for key in ("rate", "trained_rows", "train_seconds", "read_seconds")}
            | repeated(some)
            | {"seeds": {str(seed): round(100 * float(one["f1"]), 2) for seed, one in each.items()}}
        )
    return sorted(made, key=lambda line: -line["f1"]["value"])


def repeated(runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    """The counts of `f1_repeated.repeated` over all seeds, as `repeated`; nothing if the runs are older than these."""
    if not all("repeated" in run for run in runs):
        return {}
    return {"repeated": {name: sum(run["repeated"][name] for run in runs) for name in runs[0]["repeated"]}}


def points(value: float, interval: Any) -> dict[str, float]:
    """A share and its interval in points."""
    return {key: round(100 * of, 4) for key, of in (("value", value), ("low", interval.low), ("high", interval.high))}


def difference(a: dict[int, Any], b: dict[int, Any], labels: Sequence[str]) -> dict[str, float | None] | None:
    """The points of f1 of `b`, by seed, above `a`, over the seeds of both: None where there are none."""
    from qwen_ner.evaluation.bootstrap import differences

    both = sorted(a.keys() & b.keys())
    if not both:
        return None
    sides = ([side[seed] for seed in both] for side in (a, b))
    found = next(each for each in differences(*sides, labels) if each.name == "f1")
    return {**points(found.b - found.a, found.interval), "p": found.p and float(f"{found.p:.2g}")}


def over_seeds(counts: Sequence[Any], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """The rates of one run, or their means over some, as `points`: intervals draw the same rows for each."""
    from qwen_ner.evaluation.bootstrap import differences

    nothing = 0 * counts[0]  # its rates are 0, so a difference to them is the mean itself
    return {each.name: points(each.b, each.interval) for each in differences([nothing], counts, labels, permutations=0)}


def show(report: dict[str, Any]) -> str:
    """The report's table for a terminal; `places` are wrong ones of surfaces that stand more than once, of so many."""
    against = report["against"]
    made = [
        f"{'f1':>6}  {'95 %':13}{'to ' + against:>9}{'p':>8}{'span':>7}{'places':>8}  split, budget, setting, decoding"
    ]
    for line in report["table"]:
        f1, to = line["f1"], line["against"]
        compared = f"{to['value']:+9.2f}{to['p'] or float('nan'):8.2g}" if to else " " * 17
        budget = f"{line['epochs']:g} epochs" if "epochs" in line else f"{line['minutes']:g} minutes"
        counts = line.get("repeated")
        places = f"{counts['missed'] + counts['spurious']}/{counts['gold']}" if counts else ""
        made.append(
            f"{f1['value']:6.2f}  {f1['low']:.1f} – {f1['high']:.1f}  {compared}{line['span_f1']['value']:7.2f}"
            f"{places:>8}  {line['split']}, "
            f"{budget}, {line['setting']}, {line['decoding']}"
        )
    return "\n".join(made)


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
