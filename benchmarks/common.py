"""What every benchmark says beside its table: the machine, the versions, and which of the stated figures hold."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BATCHES = (1, 4, 16, 64)
PREFIXES = (32, 128, 512)
"""What a sweep goes over: rows a batch, tokens of system prompt."""


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, GPU, Python, and the versions of what every benchmark uses and of `packages`."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    names = ("torch", "transformers", "accelerate", "peft", *packages)
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: installed(name) for name in names},
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def toy(folder: Path) -> Path:
    """A folder as a training writes it, of the toy without any training."""
    from qwen_ner.contract import NerConfig
    from qwen_ner.entities import CLUENER
    from qwen_ner.training.tiny import make_tiny

    make_tiny(folder)
    NerConfig(CLUENER, "找出实体", 64, (2, 0)).save(folder)
    return folder


def claim(name: str, value: float, bound: float, at_most: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "value": float(f"{value:.3g}"),
        "bound": bound,
        "holds": value <= bound if at_most else value >= bound,
    }


Points = dict[str, list[tuple[int, str, float]]]


def sweep(
    rate: Callable[[str, int, str], float | None], names: dict[str, str], measured: str, target: Path, quick: bool
) -> Points:
    """(x, rival, rate) over "batch" and over "prefix", a line a rival, drawn into `target`.

    `rate` measures ("batch" or "prefix", x, rival); where it gives None, as where memory did not do, there is no point.
    """
    from matplotlib.figure import Figure

    points: Points = {"batch": [], "prefix": []}
    for what, values in (("batch", BATCHES), ("prefix", PREFIXES)):
        for x in values[: 1 if quick else None]:
            for name in names:
                y = rate(what, x, name)
                print(f"{what} {x}: {name} {y}", file=sys.stderr, flush=True)
                points[what] += [] if y is None else [(x, name, y)]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (what, values) in zip(figure.subplots(1, 2), points.items(), strict=True):
        for name, shown in names.items():
            drawn = [(x, y) for x, who, y in values if who == name]
            if drawn:
                axes.plot(*zip(*drawn, strict=True), marker="o", label=shown)
        axes.set(
            xscale="log",
            xlabel="rows a batch" if what == "batch" else "tokens of system prompt",
            ylabel=measured,
            ylim=(0, None),
        )
        axes.set_xticks(sorted({x for x, *_ in values}), [str(x) for x in sorted({x for x, *_ in values})])
        axes.minorticks_off()
        axes.legend()
    figure.savefig(target, dpi=120)
    print(f"drawn: {target}")
    return points


def finish(report: dict[str, Any], path: Path | None) -> None:
    """Print which claims hold, and write `report` to `path` if there is one."""
    for made in report["claims"]:
        print(f"{'holds' if made['holds'] else 'MISSED'}  {made['name']}: {made['value']} (bound {made['bound']})")
    if path:
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
