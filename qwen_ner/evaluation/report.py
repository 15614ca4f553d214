"""An evaluation as files: metrics.json, errors.jsonl, predictions.jsonl, and report.html for the eye.

In: an `Evaluated`, and the log of its training where there is one. Out: files in a folder. The page needs no network
and runs no code of others: texts are escaped by Jinja2, plots are drawn by matplotlib as SVG. Knows nothing of models.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..entities import Entity
from ..files import write_json, write_text
from .bootstrap import LEVEL, RESAMPLES, SEED
from .errors import KINDS, NONE
from .result import Evaluated, Row
from .table import VIEWS

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.axes import Axes

SENTENCES = 2000
"""Rows that the page shows, worst first; errors.jsonl and predictions.jsonl have all."""

INK, FIRST, SECOND = "#1f2933", "#2563a8", "#b4540a"


def write_report(
    evaluated: Evaluated,
    folder: Path,
    *,
    training: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the four files into `folder`, each whole or not at all.

    `training` is said of the training in metrics.json; `history` is the Trainer's `log_history`, for the curves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = evaluated.to_dict() | ({} if training is None else {"training": dict(training)})
    write_json(folder / "metrics.json", values)
    write_text(folder / "predictions.jsonl", (f"{line}\n" for line in evaluated.prediction_lines()))
    write_text(folder / "errors.jsonl", (f"{line}\n" for line in evaluated.error_lines()))
    write_text(folder / "report.html", [page(evaluated, history)])


def page(evaluated: Evaluated, history: Sequence[Mapping[str, Any]] = ()) -> str:
    """report.html as a string."""
    from markupsafe import Markup

    return (
        templates("qwen_ner.evaluation")
        .get_template("report.html.j2")
        .render(
            e=evaluated,
            scores=evaluated.scores,
            views=VIEWS,
            level=f"{LEVEL:.0%}".replace("%", " %"),
            resamples=RESAMPLES,
            seed=SEED,
            kinds=KINDS,
            absent=NONE,
            hottest=max(1, max(max(row.values()) for row in evaluated.confusion.values())),
            plots=[(title, Markup(svg)) for title, svg in plots(evaluated, history)],
            sentences=[_sentence(row) for row in islice(evaluated.worst_first(), SENTENCES)],
            hues={label: round(360 * i / len(evaluated.labels)) for i, label in enumerate(evaluated.labels.names)},
        )
    )


def templates(package: str, *, html: bool = True) -> Environment:
    """The templates that lie in `package`, as Jinja2 reads all of ours; `html` escapes what is put into them."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=html,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda rate: f"{100 * rate:.2f}"
    return environment


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text that the same entities cover: their labels, and of those that end here their label and score."""

    text: str
    labels: tuple[str, ...]
    ending: tuple[tuple[str, float | None], ...]


def pieces(text: str, entities: Sequence[Entity]) -> list[Piece]:
    """`text` cut wherever an entity begins or ends, so that nested and crossing ones can be shown.

    >>> [(piece.text, piece.labels) for piece in pieces("在北京大学", [Entity("address", "北京", 1, 3)])]
    [('在', ()), ('北京', ('address',)), ('大学', ())]
    """
    cuts = sorted({0, len(text), *(e.start for e in entities), *(e.end for e in entities)})
    return [
        Piece(
            text[start:end],
            tuple(dict.fromkeys(e.label for e in entities if e.start <= start and end <= e.end)),
            tuple((e.label, e.score) for e in entities if e.end == end),
        )
        for start, end in pairwise(cuts)
    ]


def _sentence(row: Row) -> dict[str, Any]:
    example, decoded, errors = row
    involved = [entity for error in errors for entity in (error.gold, error.predicted) if entity]
    labels = {entity.label for entity in involved} | {error.written[0] for error in errors if error.written}
    return {
        "id": example.id,
        "source": example.source,
        "gold": pieces(example.text, example.entities),
        "predicted": pieces(example.text, decoded.entities),
        "ungrounded": decoded.ungrounded,
        "kinds": list(dict.fromkeys(error.kind for error in errors)),
        "labels": sorted(labels) if errors else sorted({entity.label for entity in example.entities}),
        "problems": [
            problem for problem in decoded.problems if problem.kind in ("not_json", "truncated", "wrong_type")
        ],
    }


def plots(evaluated: Evaluated, history: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(title, SVG) of each plot that there is something to draw for."""
    for title, keys in (
        ("Loss over steps", {"loss": "training", "eval_loss": "validation"}),
        ("Scores on the validation rows", {"eval_f1": "f1", "eval_span_f1": "span_f1", "eval_macro_f1": "macro_f1"}),
        ("Learning rate", {"learning_rate": "learning rate"}),
    ):
        lines = {name: [(log["step"], log[key]) for log in history if key in log] for key, name in keys.items()}
        if any(lines.values()):
            yield title, _drawn(lambda axes, lines=lines: _curves(axes, lines))
    if reliability := evaluated.confidence.get("reliability"):
        yield "Reliability of confidences", _drawn(lambda axes: _reliability(axes, reliability))
    lengths = evaluated.tally.lengths
    for title, names in (("an entity", ("gold", "predicted")), ("a sentence", ("sentences",))):
        shown = {name: lengths[name] for name in names}
        yield f"Characters of {title}", _drawn(lambda axes, shown=shown: _histogram(axes, shown))


def _drawn(draw: Any) -> str:
    """An SVG whose text stays text: the browser has the fonts for it, matplotlib may not."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "qwen_ner", "font.size": 10}):
        figure = Figure(figsize=(4.6, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]


def _curves(axes: Axes, lines: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    shown = {name: points for name, points in lines.items() if points}
    for (name, points), color in zip(shown.items(), (FIRST, SECOND, INK), strict=False):
        marker = "o" if len(points) < 20 else ""
        axes.plot(*zip(*points, strict=True), label=name, color=color, marker=marker, markersize=3)
    axes.set(xlabel="steps", ylim=(0, None))
    if len(shown) > 1:
        axes.legend(frameon=False)


def _reliability(axes: Axes, bins: Sequence[tuple[float, float, float]]) -> None:
    """Share that is right over mean confidence of each bin; the area of a point is the bin's share of the surfaces."""
    axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle="--")
    shares, confidence, right = zip(*bins, strict=True)
    axes.plot(confidence, right, color=FIRST, linewidth=1)
    axes.scatter(confidence, right, s=[10 + 400 * share for share in shares], color=FIRST, alpha=0.7)
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))


def _histogram(axes: Axes, values: Mapping[str, Mapping[int, int]]) -> None:
    """How often each number occurs, in 25 bins at most."""
    longest = max((max(of) for of in values.values() if of), default=1)
    step = max(1, -(-longest // 25))
    edges = [edge - 0.5 for edge in range(0, longest + step + 1, step)]
    for (name, of), color in zip(values.items(), (FIRST, SECOND), strict=False):
        if color == FIRST:
            axes.hist([*of], edges, weights=[*of.values()], label=name, color=color, histtype="stepfilled", alpha=0.6)
        else:
            axes.hist([*of], edges, weights=[*of.values()], label=name, color=color, histtype="step")
    axes.set(xlabel="characters", ylabel="count")
    if len(values) > 1:
        axes.legend(frameon=False)
