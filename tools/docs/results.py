"""The pages of results, made of the JSON that the benchmarks and experiments wrote.

In: `benchmarks/results/*.json` and `experiments/*.json`. Out: a Markdown page and its pictures for each template in
`results/en` and `results/zh`, which hold the words; no figure stands in them. A page whose JSON is missing is not made.

    python tools/docs/results.py docs      # written to docs/en/results and docs/zh/results

MkDocs calls it as a hook, which writes the same files. Git ignores them.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = Path(__file__).parent / "results"
LANGUAGES = ("en", "zh")
SOURCES = {
    "cluener": ("experiments/f1_budget", "experiments/annotators", "benchmarks/results/h100"),
    "levers": ("experiments/f1_budget",),
    "few_rows": ("experiments/few_rows",),
    "training_speed": ("benchmarks/results/train_speed",),
    "extraction_speed": ("benchmarks/results/extract_speed",),
    "engines": ("benchmarks/results/engines",),
    "serving": ("benchmarks/results/serve_load",),
    "growth": ("benchmarks/results/growth",),
    "gpu": ("benchmarks/results/h100", "experiments/f1_gpu"),
}
"""What each page is made of; its template sees each JSON by its file's name."""

HEADS = {
    "en": {"date": "Date", "machine": "Machine", "cores": "{} cores", "versions": "Versions", "commit": "Commit",
           "command": "Command", "file": "Made from", "dirty": "with uncommitted changes"},
    "zh": {"date": "日期", "machine": "机器", "cores": "{} 核", "versions": "版本", "commit": "提交",
           "command": "命令", "file": "数据来源", "dirty": "含未提交的改动"},
}  # fmt: skip
GREY = "#888888"
"""Text and axes of pictures, to be read on light and on dark pages."""

Report = dict[str, Any]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Called by MkDocs before it looks for files: write the pages; those without JSON leave the navigation."""
    made = write_pages(Path(config.docs_dir), ROOT)
    missing = [f"results/{name}.md" for name in SOURCES if name not in made]
    for section in config.nav or []:
        for title, pages in section.items() if isinstance(section, dict) else ():
            if isinstance(pages, list):
                section[title] = [page for page in pages if page not in missing]
    return config


def write_pages(folder: Path, root: Path = ROOT) -> list[str]:
    """Write the pages whose JSON stands under `root` to `folder`/en/results and `folder`/zh/results; their names.

    A file that would not change is left alone, so that a server which watches the folder stays quiet.
    """
    reports = {name: [read(root / f"{source}.json") for source in sources] for name, sources in SOURCES.items()}
    made = [name for name, found in reports.items() if all(found)]
    for language in LANGUAGES:
        place = folder / language / "results"
        place.mkdir(parents=True, exist_ok=True)
        for name in made:
            known = {Path(source).name: report for source, report in zip(SOURCES[name], reports[name], strict=True)}
            write(place / f"{name}.md", page(name, known, language, place))
    return made


def read(path: Path) -> Report | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def page(name: str, reports: Mapping[str, Report], language: str, folder: Path) -> str:
    """The text of a page; pictures that its template asks for are drawn into `folder`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES / language), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def drawn(title: str, plot: Callable[..., None], **options: Any) -> str:
        picture = f"{name}-{re.sub(r'[^a-z0-9]+', '-', title)}.svg"
        draw(folder / picture, plot, **options)
        return picture

    environment.filters |= {"rate": rate, "interval": interval, "change": change, "share": share, "small": small}
    environment.globals |= {
        "head": lambda report, source, **given: head(report, source, HEADS[language], **given),
        "median": statistics.median,
        "mean": statistics.mean,
        "lines": lambda title, curves, **words: drawn(title, plot_lines, curves=curves, **words),
        "bars": lambda title, values, **words: drawn(title, plot_bars, values=values, **words),
        "single_levers": single_levers,
        "verdict": verdict,
    }
    text = environment.get_template(f"{name}.md").render(**reports)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def head(report: Report, source: str, words: Mapping[str, str], **given: str) -> str:
    """Date, machine, versions, commit and command of a report: what `given` says, else what the report says."""
    machine = report["machine"]
    parts = [machine.get("gpu"), machine.get("processor"), words["cores"].format(machine["cores"])]
    hardware = {"processor", "cores", "gpu", "threads"}
    run = {**report.get("run", {}), **given}
    commit, changed, _ = run["commit"].partition("+")
    rows = {
        "date": run["date"],
        "machine": ", ".join(part for part in parts if part),
        "versions": ", ".join(f"{name} {of}" for name, of in machine.items() if of and name not in hardware),
        "commit": f"`{commit}`" + (f", {words['dirty']}" if changed else ""),
        "command": f"`{run['command']}`",
        "file": f"`{source}`",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {words[key]} | {value} |" for key, value in rows.items())])


def rate(value: float, digits: int = 2) -> str:
    return f"{value:,.{digits}f}"


def share(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def small(value: float) -> str:
    """A small difference, in powers of ten: 2.9·10⁻⁷."""
    number, _, power = f"{value:.1e}".partition("e")
    return f"{number}·10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def interval(of: Mapping[str, float]) -> str:
    """A score with its interval, which a narrow cell may break before the parenthesis alone: lines also break after a
    dash, even before a no-break space."""
    return f"{of['value']:.2f} ({of['low']:.1f}\N{NO-BREAK SPACE}–\N{WORD JOINER}\N{NO-BREAK SPACE}{of['high']:.1f})"


def change(of: Mapping[str, float | None] | None) -> str:
    if not of:
        return ""
    p = "" if of["p"] is None else f", p {of['p']:.2g}"
    return f"{of['value']:+.2f} ({of['low']:+.1f}\N{NO-BREAK SPACE}…\N{NO-BREAK SPACE}{of['high']:+.1f}{p})"


def single_levers(report: Report, minutes: float) -> list[Report]:
    """The lines of rows held out that tell what one lever, or another decoding, gives within `minutes`; best first."""
    found = [
        line
        for line in report["table"]
        if (line["split"], line["minutes"]) == ("held out", minutes) and line["lever"] and line["setting"] != "trl"
    ]
    return sorted(found, key=lambda line: -line["lever"]["value"])


def verdict(difference: Mapping[str, float | None]) -> str:
    """better or worse where the difference is unlikely to be chance (p < 0.05), else same."""
    if difference["p"] is None or difference["p"] >= 0.05:
        return "same"
    return "better" if (difference["value"] or 0) > 0 else "worse"


def draw(target: Path, plot: Callable[..., None], width: float = 7, height: float = 4, **options: Any) -> None:
    """An SVG without background; its text stays text, in the reader's own font."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": target.name, "font.size": 11}
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
    buffer = StringIO()
    with rc_context({**style, **colours, "legend.frameon": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # Chinese, which matplotlib's own font lacks and the reader's has
        figure = Figure(figsize=(width, height), layout="constrained")
        plot(figure.subplots(), **options)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    write(target, buffer.getvalue().replace("'DejaVu Sans'", "sans-serif"))


def plot_lines(
    axes: Any,
    curves: Mapping[str, Sequence[Sequence[float]]],
    x: str,
    y: str,
    band: Mapping[str, Any] | None = None,
    log: bool = False,
) -> None:
    """A line a name: points (x, y) or (x, y, low, high); `band` {name, low, high} across all of them."""
    for name, points in curves.items():
        middle = [point[1] for point in points]
        certain = len(points[0]) < 4
        bars = None if certain else [[p[1] - p[2] for p in points], [p[3] - p[1] for p in points]]
        axes.errorbar([p[0] for p in points], middle, yerr=bars, marker="o", capsize=3, label=name)
    if band:
        axes.axhspan(band["low"], band["high"], color=GREY, alpha=0.2, label=band["name"])
    ticks = sorted({point[0] for points in curves.values() for point in points})
    axes.set(xlabel=x, ylabel=y, xscale="log" if log else "linear")
    if len(ticks) < 12:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    if not band:
        axes.set_ylim(0, None)
    axes.grid(alpha=0.2)
    if band or len(curves) > 1:
        axes.figure.legend(loc="outside lower center")  # inside it would lie on a line


def plot_bars(axes: Any, values: Mapping[str, float], x: str) -> None:
    """A horizontal bar a name, in the order given, with its value."""
    names = list(values)[::-1]
    axes.barh(names, [values[name] for name in names], color="#3f8fc4")
    for place, name in enumerate(names):
        axes.text(values[name], place, f" {values[name]:.2f}", va="center")
    axes.set(xlabel=x)
    axes.margins(x=0.12)


if __name__ == "__main__":
    print("\n".join(write_pages(Path(sys.argv[1]))))
