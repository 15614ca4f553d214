"""What all benchmarks share: machine and versions in a report, its claims, and sweeps over batch and prompt size."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BATCHES = (1, 4, 16, 64)
PREFIXES = (32, 128, 512)
"""The values of a sweep: rows a batch, and tokens of the system prompt."""


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, GPU, Python, and the versions of what every benchmark uses and of `packages`."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    names = ("torch", "transformers", "accelerate", "peft", *packages)
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: installed(name) for name in names},
    }


def processor() -> str:
    """The processor's name, as Linux has it; elsewhere what Python knows, which may be the architecture alone."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def commit() -> str | None:
    """The commit of the code that is measured, with a + where files differ from it; None outside a checkout."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"]).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.strip() + "+" * changed


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def toy(folder: Path) -> Path:
    """An untrained toy model, saved in `folder` the way a training saves its model."""
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
    """Measure (x, rival, rate) over "batch" and "prefix", and plot a line a rival to `target`.

    `rate("batch" or "prefix", x, rival)` measures one point; it returns None where there is none (out of memory).
    `quick` measures the first value of each.
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
    """Print which claims hold; write `report`, with what ran when, to `path` if it is given."""
    for made in report["claims"]:
        print(f"{'holds' if made['holds'] else 'MISSED'}  {made['name']}: {made['value']} (bound {made['bound']})")
    if path:
        report = {"run": this_run(), **report}
        path.parent.mkdir(parents=True, exist_ok=True)  # what was measured for an hour is not lost for a folder
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def this_run() -> dict[str, Any]:
    """Date, commit and command of what is running, without the file that it writes."""
    arguments = sys.argv[1:]
    if "--json" in arguments:
        at = arguments.index("--json")
        del arguments[at : at + 2]
    command = ["python", os.path.relpath(sys.argv[0]), *arguments]
    return {"date": datetime.date.today().isoformat(), "commit": commit(), "command": shlex.join(command)}


def peak_memory_of_process() -> float:
    """GiB of memory that this process has held at most."""
    import psutil

    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
