"""The files of an evaluation: metrics.json, errors.jsonl, predictions.jsonl and report.html.

In: an `EvaluationResult`, and the log of its training if there is one. Out: files in a folder. The page needs no
network and no third-party scripts: Jinja2 escapes the texts, matplotlib draws the plots. Knows nothing of models.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..entities import Entity
from ..files import write_json, write_text
from .bootstrap import LEVEL, RESAMPLES, SEED
from .errors import KINDS, NONE
from .result import EvaluationResult, Row
from .scoring import Counts
from .table import VIEWS, few_note, macro_note, problem_counts

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.axes import Axes

SENTENCES = 2000
"""Maximum number of rows on the page, those with the most errors first; errors.jsonl has them all."""

MATRIX, PAIRS = 30, 50
"""With more labels the page has no matrix of confusions, but so many of the commonest pairs; metrics.json has all."""

INK, FIRST, SECOND = "#1f2933", "#2563a8", "#b4540a"

CURVES = {
    "Loss over steps": {"loss": "training", "eval_loss": "validation"},
    "Scores on the validation rows": {"eval_f1": "f1", "eval_span_f1": "span_f1", "eval_macro_f1": "macro_f1"},
    "Learning rate": {"learning_rate": "learning rate"},
}
"""Plots of a training: title, and the name of the curve for each key of the Trainer's `log_history`."""


def write_report(
    evaluated: EvaluationResult,
    folder: Path,
    *,
    training: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the four files into `folder`, each atomically.

    `training` is stored in metrics.json under that key; `history` is the Trainer's `log_history`, for the curves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = evaluated.to_dict() | ({} if training is None else {"training": dict(training)})
    write_json(folder / "metrics.json", values)
    write_text(folder / "predictions.jsonl", (f"{line}\n" for line in evaluated.prediction_lines()))
    write_text(folder / "errors.jsonl", (f"{line}\n" for line in evaluated.error_lines()))
    write_text(folder / "report.html", [page(evaluated, history)])


def page(evaluated: EvaluationResult, history: Sequence[Mapping[str, Any]] = ()) -> str:
    """The content of report.html."""
    from markupsafe import Markup

    pairs = [(pair, count) for pair, count in evaluated.tally.confusion.most_common() if pair[0] != pair[1]]
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
            kinds={kind: why for kind, why in KINDS.items() if evaluated.tally.kinds[kind] != Counts()},
            absent=NONE,
            macro_note=macro_note(evaluated.scores),
            problem_counts=problem_counts(evaluated.scores),
            few_note=few_note(evaluated.scores),
            pairs=pairs,
            matrix=[*evaluated.labels.names, NONE] if len(evaluated.labels) <= MATRIX else None,
            hottest=max(evaluated.tally.confusion.values(), default=1),
            few=PAIRS,
            plots=[(title, Markup(svg)) for title, svg in plots(evaluated, history)],
            sentences=[_sentence(row) for row in islice(evaluated.worst_first(), SENTENCES)],
            hues={label: round(360 * i / len(evaluated.labels)) for i, label in enumerate(evaluated.labels.names)},
        )
    )


def templates(package: str, *, html: bool = True) -> Environment:
    """A Jinja2 environment for the templates in `package`; `html` escapes the values put into them."""
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
    """A part of a text with the labels of the entities that cover it, and label and score of those that end with it."""

    text: str
    labels: tuple[str, ...]
    ending: tuple[tuple[str, float | None], ...]


def pieces(text: str, entities: Sequence[Entity]) -> list[Piece]:
    """`text` split wherever an entity begins or ends, so that nested and overlapping ones can be shown.

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
    entities = [e for error in errors for e in (error.gold, error.predicted) if e] if errors else example.entities
    return {
        "place": example.source or example.id,
        "gold": pieces(example.text, example.entities),
        "predicted": pieces(example.text, decoded.entities),
        "ungrounded": decoded.ungrounded,
        "kinds": list(dict.fromkeys(error.kind for error in errors)),
        "labels": sorted({e.label for e in entities} | {error.written[0] for error in errors if error.written}),
        "problems": [p for p in decoded.problems if p.kind in ("not_json", "truncated", "wrong_type", "miscopied")],
    }


def plots(evaluated: EvaluationResult, history: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(title, SVG) of each plot for which there is data."""
    for title, names in CURVES.items():
        if any(name in entry for entry in history for name in names):
            yield title, _svg(partial(draw_curves, names=names), history)
    if reliability := evaluated.confidence.get("reliability"):
        yield "Reliability of confidence scores", _svg(_draw_reliability, reliability)


def _svg(draw: Callable[[Axes, Any], None], data: Any) -> str:
    """What `draw` draws of `data`, as SVG. Text stays text, since the browser may have fonts that matplotlib lacks."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "qwen_ner", "font.size": 10}):
        figure = Figure(figsize=(4.6, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, data)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]


def draw_curves(axes: Axes, history: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    """Plot the values of `history` under the keys of `names` over steps; keys without a value are left out."""
    for (key, name), color in zip(names.items(), (FIRST, SECOND, INK), strict=False):
        if points := [(entry["step"], entry[key]) for entry in history if key in entry]:
            marker = "o" if len(points) < 20 else ""
            axes.plot(*zip(*points, strict=True), label=name, color=color, marker=marker, markersize=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="steps", ylim=(0, None))
    axes.legend(frameon=False)


def _draw_reliability(axes: Axes, bins: Sequence[tuple[float, float, float]]) -> None:
    """Accuracy over mean confidence of each bin; the area of a point is the bin's share of the surfaces."""
    axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle="--")
    shares, confidence, right = zip(*bins, strict=True)
    axes.plot(confidence, right, color=FIRST, linewidth=1)
    axes.scatter(confidence, right, s=[10 + 400 * share for share in shares], color=FIRST, alpha=0.7)
    axes.set(xlabel="confidence", ylabel="share correct", xlim=(0, 1.02), ylim=(0, 1.02))
