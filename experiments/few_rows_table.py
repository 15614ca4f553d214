"""The runs of few_rows.py as one JSON: scores with intervals, and differences to the CRF of the same rows.

In: the lines of its file. Out: what the page of results is made of, and a table for the terminal. Several seeds of one
system and size are one line: their mean, its interval over the rows that were read, and each seed's f1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common import claim, this_run
from f1_budget import unpacked
from f1_table import difference, over_seeds

from qwen_ner.evaluation.bootstrap import rates

Run = dict[str, Any]
VIEWS = ("f1", "span_f1", "macro_f1", "precision", "recall", "seen_f1", "unseen_f1")


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The report: `table`, a line a split, size and system; `machine`, that of the first run; `measured`, when
    and on which commits the runs were made.

    A line has each of `VIEWS` as {value, low, high}, in points; `crf` and `plain`, its difference to the CRF and to the
    same system without a name, over the seeds that both have, as {value, low, high, p} or None; `training` and
    `reading`, seconds by the clock and of the processor, their means over seeds; `gpu`, its name or None.
    """
    groups: dict[tuple[str, int, str], dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: (run["split"], run["rows"])):
        groups.setdefault((run["split"], run["rows"], run["system"]), {})[run["seed"]] = run
    counts = {key: {seed: unpacked(run | {"rows": run["scored"]}) for seed, run in sorted(some.items())}
              for key, some in groups.items()}  # fmt: skip
    table = [line(key, groups[key], counts) for key in groups]
    recorded = [run["run"] for run in runs]
    dates, commits = sorted({one["date"] for one in recorded}), list(dict.fromkeys(one["commit"] for one in recorded))
    this = this_run()
    return {
        "run": {part: this[part] for part in ("date", "commit")},  # the command may name folders of a machine
        "machine": runs[0]["machine"],
        "measured": {"dates": dates, "commits": commits},
        "table": table,
        "claims": claims(table),
    }  # fmt: skip


def line(key: tuple[str, int, str], some: dict[int, Run], counts: dict[Any, dict[int, Any]]) -> dict[str, Any]:
    split, rows, system = key
    first, own = next(iter(some.values())), counts[key]
    labels = first["labels"]
    each = {seed: rates(one.sum(0), labels) for seed, one in own.items()}
    mean = over_seeds([*own.values()], labels)

    def against(other: str) -> dict[str, float | None] | None:
        return None if other == system else difference(counts.get((split, rows, other), {}), own, labels)

    return {
        "split": split, "rows": rows, "system": system, "settings": first["settings"], "scored": first["scored"],
        "gpu": first["machine"]["gpu"],
        **{view: mean[view] for view in VIEWS},
        "seeds": {str(seed): round(100 * float(one["f1"]), 2) for seed, one in each.items()},
        "crf": against("crf"), "plain": against(system.partition("+")[0]),
        **{part: {clock: round(sum(run[part][clock] for run in some.values()) / len(some), 2)
                  for clock in first[part]} for part in ("training", "reading")},
        "penalties": {str(seed): run["penalties"] for seed, run in some.items()} if "penalties" in first else None,
    }  # fmt: skip


def claims(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """few-rows is to be better on dev than the CRF of the same rows, and not by chance of the rows that are read."""
    return [
        claim(f"lower end of the points of f1 over a CRF from {line['rows']} rows", line["crf"]["low"], 0)
        for line in table
        if line["system"] == "few-rows" and line["split"] == "dev" and line["crf"]
    ]


def show(report: dict[str, Any]) -> str:
    """The report's table for a terminal."""
    made = [f"{'f1':>6}  {'95 %':13}{'to crf':>8}  {'95 %':14}split, rows, system: seeds"]
    for each in report["table"]:
        f1, to = each["f1"], each["crf"]
        compared = f"{to['value']:+8.2f}  {to['low']:+.1f} – {to['high']:+.1f}" if to else ""
        seeds = ", ".join(f"{seed}: {value:.1f}" for seed, value in each["seeds"].items())
        made.append(
            f"{f1['value']:6.2f}  {f1['low']:.1f} – {f1['high']:.1f}  {compared:24}  {each['split']}, {each['rows']}, "
            f"{each['system']}: {seeds}"
        )
    return "\n".join(made)
