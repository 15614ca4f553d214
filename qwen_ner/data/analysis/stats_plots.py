"""The statistics of a data set as plots.

In: `Statistics`, a folder. Out: PNG files in it. Does not count anything.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .stats import Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.font_manager import FontEntry

log = logging.getLogger(__name__)


def draw(statistics: Statistics, folder: str | Path, tokenizer: str) -> list[Path]:
    """Write labels.png, lengths.png and limits.png to `folder`; returns their paths.

    `tokenizer` is the name of the tokenizer that counted. Characters that no installed font has are logged.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unit = f"tokens of {tokenizer}"
    figures: dict[str, Figure] = {}

    def panels(name: str, height: float, number: int = 1) -> list[Axes]:
        figures[name] = Figure(figsize=(8, height), layout="constrained")
        return list(figures[name].subplots(number, squeeze=False).flat)

    with rc_context({"font.family": _fonts("".join([*statistics.labels, *statistics.splits, tokenizer]))}):
        if labels := statistics.labels:
            _labels(panels("labels.png", 1.2 + 0.35 * len(labels))[0], statistics)
        whats = ("text", "prompt", "answer", "row")
        for axes, what in zip(panels("lengths.png", 2.2 * len(whats), len(whats)), whats, strict=True):
            _lengths(axes, statistics, what, "characters" if what == "text" else unit)
        _limits(panels("limits.png", 4)[0], statistics, unit)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # what no font has, `_fonts` has logged
            for name, figure in figures.items():
                figure.savefig(folder / name, dpi=150)
    return [folder / name for name in figures]


def _labels(axes: Axes, statistics: Statistics) -> None:
    """For each label and split, its share of the entities of the split, with the count."""
    labels = statistics.labels
    splits = {name: split for name, split in statistics.splits.items() if split.is_annotated}
    height = 0.8 / len(splits)
    for at, (name, split) in enumerate(splits.items()):
        counts = [split.labels[label].entities if label in split.labels else 0 for label in labels]
        places = [i + at * height for i in range(len(labels))]
        bars = axes.barh(places, [100 * count / split.entities for count in counts], height, label=name)
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=2, fontsize=7)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(labels))], labels)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("share of the split's entities, per cent (and their number)")
    _finish(axes)


def _lengths(axes: Axes, statistics: Statistics, what: str, unit: str) -> None:
    """The share of a split's rows at each length."""
    from matplotlib.ticker import MaxNLocator

    drawn = {
        name: split.lengths[what]
        for name, split in statistics.splits.items()
        if split.is_annotated or what in ("text", "prompt")
    }
    longest = max((lengths.longest for lengths in drawn.values()), default=0)
    shortest = min((length for lengths in drawn.values() for length in lengths.counts), default=0)
    step = max(1, round((longest - shortest) / 60))
    edges = [shortest - 0.5 + step * at for at in range((longest - shortest) // step + 2)]
    for name, lengths in drawn.items():
        percent = [100 * rows / lengths.rows for rows, _ in lengths.counts.values()]
        label = f"{name}\n99 % within {lengths.quantile(0.99):,}"
        axes.hist(list(lengths.counts), edges, weights=percent, histtype="step", linewidth=1.5, label=label)
    axes.set_xlabel(f"{what}, {unit}" + (f", {step} a bin" if step > 1 else ""))
    axes.set_ylabel("rows, per cent")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes)


def _limits(axes: Axes, statistics: Statistics, unit: str) -> None:
    """For each length limit, the share of entities in longer rows."""
    styles = {"row": "-", "prompt": "--", "answer": ":"}
    for at, (name, split) in enumerate(statistics.splits.items()):
        if split.is_annotated:
            for what, style in styles.items():
                limits = [0, *split.lengths[what].counts]
                lost = [100 * split.lengths[what].lost(limit)[1] / split.entities for limit in limits]
                axes.step(limits, lost, style, where="post", color=f"C{at}", label=f"{name}, of the {what}")
    axes.set_xlabel(f"limit, {unit}")
    axes.set_ylabel("entities in longer rows, per cent")
    axes.set_ylim(0, 105)
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)


def _fonts(text: str) -> list[str]:
    """The default font, and others for the characters of `text` that it lacks. What no font has is logged."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    default = font_manager.FontProperties()
    families, missing = default.get_family(), set(text)
    missing -= {*map(chr, FT2Font(font_manager.findfont(default)).get_charmap())}
    for entry in _installed():
        if not missing:
            break
        # The "last resort" font has a box for every character. What was removed may still be listed.
        if "LastResort" not in entry.fname and Path(entry.fname).exists():
            held = missing & {*map(chr, FT2Font(entry.fname).get_charmap())}
            families, missing = [*families, *([entry.name] if held else [])], missing - held
    if missing:
        log.warning("No installed font has %s; install one, such as Noto Sans CJK.", " ".join(sorted(missing)))
    return families


def _installed() -> Iterator[FontEntry]:
    """The fonts of matplotlib's list, regular ones first, then those that are newer than the file of that list."""
    from matplotlib import font_manager

    listed = font_manager.fontManager.ttflist
    old = sorted(listed, key=_rank)
    yield from old
    for path in {*font_manager.findSystemFonts()} - {entry.fname for entry in old}:
        with suppress(Exception):  # a file may be broken in any way; matplotlib leaves it out too
            font_manager.fontManager.addfont(path)
    yield from sorted(listed[len(old) :], key=_rank)


def _rank(entry: FontEntry) -> tuple[bool, str]:
    return entry.weight != 400, entry.name
