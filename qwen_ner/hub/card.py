"""The model card: what a search on the Hub finds a model by, and what its users must know of it.

In: a trained folder, its name on the Hub and its base's. Out: the text of README.md, and the picture of its curves.
Every figure is of metrics.json and trainer_state.json; what was not measured is said not to be. Knows nothing of
networks.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..contract import NerConfig
from ..entities import NerError
from ..evaluation.bootstrap import Interval
from ..evaluation.report import FIRST, INK, SECOND, templates
from ..evaluation.scoring import Counts, Scores
from ..evaluation.table import VIEWS, Contract
from ..inference.hub_download import ADAPTER, may_be_repo_id
from .neutral import (
    CURVE,
    PREDICTIONS,
    STATE,
    check_trained,
    neutral_metrics,
    neutral_recipe,
    read_metrics,
    read_recipe,
)

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

WEAKEST = 3
"""Labels that are named as the weakest."""

FEW = 30
"""Entities of a label in the scored rows below which its score is said to mean little."""

CURVE_LINES = 12
"""Evaluations in the card's table; the picture has all."""

MADE_UP = "三星在北京开了一家新店"


def model_card(folder: str | Path, repo_id: str, *, base_model: str | None = None) -> str:
    """The text of the card of the model in `folder`, as the repository `repo_id`.

    `base_model` is the id of its base on the Hub, None where it has none. Without a metrics.json the card has no score
    and says so. Raises `NerError` for a folder that holds no trained model.
    """
    folder = Path(folder)
    config = check_trained(folder)
    recipe = neutral_recipe(read_recipe(folder), base_model)
    values = read_metrics(folder)
    metrics = None if values is None else neutral_metrics(values, repo_id, base_model)
    adapter = (folder / ADAPTER).is_file()
    log = history(folder)
    environment = templates("qwen_ner.hub", html=False)
    environment.filters["plain"] = plain
    environment.filters["python"] = lambda text: json.dumps(text, ensure_ascii=False)
    return environment.get_template("model_card.md.j2").render(
        metadata=metadata(folder, repo_id, metrics, recipe, base_model).to_yaml(),
        repo_id=repo_id,
        base=base_model or recipe.get("model_name_or_path"),
        toy=recipe.get("model_name_or_path") == "tiny",
        adapter=adapter,
        config=config,
        prompt=config.codec().system_prompt,
        public=(dataset := str(recipe.get("dataset", ""))) in ("cluener", "sample") or may_be_repo_id(dataset),
        dataset=recipe.get("dataset") or (metrics or {}).get("training", {}).get("dataset"),
        sentence=(recipe.get("examples") or [MADE_UP])[0],
        scored=None if metrics is None else _scored(metrics),
        limits=[] if metrics is None else list(limits(metrics, recipe, config)),
        views=VIEWS,
        recipe=fenced(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False).strip()) if recipe else "",
        training=(metrics or {}).get("training", {}),
        curve=curve(log, CURVE_LINES),
        picture=CURVE if curve(log) else None,
    )


def plain(text: object) -> str:
    """`text` as Markdown shows it letter by letter on one line: no tag, link, image or table's bar of its own.

    >>> print(plain("a|b\\n![x](y) <script> R&D drug_name"))
    a\\|b !\\[x\\](y) &lt;script&gt; R&amp;D drug_name
    """
    return re.sub(r"([\\\[\]`*|~])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def fenced(text: str) -> str:
    """`text` in a block of YAML, whose fence is longer than any in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text}\n{fence}"


def metadata(
    folder: Path, repo_id: str, metrics: Mapping[str, Any] | None, recipe: Mapping[str, Any], base_model: str | None
) -> ModelCardData:
    """The YAML at the head of the card; `metrics` and `recipe` are neutral already."""
    from huggingface_hub import EvalResult, ModelCardData

    adapter = (folder / ADAPTER).is_file()
    dataset = str(recipe.get("dataset", ""))
    results = []
    if metrics is not None:
        contract = metrics["contract"]
        results = [
            EvalResult(
                task_type="token-classification",
                task_name="Named entity recognition",
                dataset_type=str(contract["data"]),
                dataset_name=str(contract["data"]),
                dataset_split=contract["split"],
                dataset_revision=contract["fingerprint"],
                dataset_args={"rows": contract["rows"], "decoding": contract["decoding"]},
                metric_type="f1",
                metric_name=name,
                metric_value=metrics["metrics"][name],
            )
            for name in ("f1", "span_f1", "macro_f1")
        ]
    return ModelCardData(
        language=language(folder, recipe),
        library_name="peft" if adapter else "transformers",
        pipeline_tag="token-classification",
        base_model=base_model,
        base_model_relation=None if base_model is None else "adapter" if adapter else "finetune",
        datasets=["cluener"]
        if dataset == "cluener"
        else [dataset.partition(":")[0]]
        if may_be_repo_id(dataset)
        else None,
        tags=["named-entity-recognition", "ner", "information-extraction", "json", "qwen_ner"],
        metrics=["f1"],
        model_name=repo_id.split("/")[-1],
        eval_results=results or None,
    )


def language(folder: Path, recipe: Mapping[str, Any]) -> str | None:
    """`zh` where the texts are Chinese, by the data set's name, the scored rows, or the example sentences.

    None where it is another language: which, the user adds.
    """
    if recipe.get("dataset") in ("cluener", "sample"):
        return "zh"
    path = folder / PREDICTIONS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    texts = [json.loads(line)["text"] for line in lines] or recipe.get("examples") or []
    return "zh" if is_chinese(texts) else None


def is_chinese(texts: Iterable[str]) -> bool:
    """Whether Chinese characters are a good part of the letters, and no kana says that it is Japanese.

    >>> is_chinese(["三星WCG2011北京赛区"]), is_chinese(["東京でラーメンを食べた"]), is_chinese(["Seoul"])
    (True, False, False)
    """
    letters = [character for text in texts for character in text if character.isalpha()]
    han = sum("\u4e00" <= character <= "\u9fff" for character in letters)
    kana = sum("\u3040" <= character <= "\u30ff" for character in letters)
    return 4 * han > len(letters) and 20 * kana < han


def limits(metrics: Mapping[str, Any], recipe: Mapping[str, Any], config: NerConfig) -> Iterable[str]:
    """What the figures say that the model cannot do, a sentence each."""
    scores, contract = Scores.from_dict(metrics), metrics["contract"]
    known = {label: scores.surface[label] for label in scores.labels if scores.surface[label].support}
    if known:
        weakest = sorted(known, key=lambda label: known[label].f1)[:WEAKEST]
        named = ", ".join(
            f"{plain(label)} {100 * known[label].f1:.2f} ({_interval(metrics, label)})" for label in weakest
        )
        yield f"Weakest labels by f1: {named}."
    few = [f"{plain(label)} ({counts.support})" for label, counts in scores.surface.items() if 0 < counts.support < FEW]
    if few:
        yield f"Fewer than {FEW} surfaces to score, so that the label's figure means little: {', '.join(few)}."
    if absent := [label for label in scores.labels if label not in known]:
        yield f"None was there to score of: {', '.join(map(plain, absent))}."
    if scores.seen is not None and scores.unseen is not None and scores.unseen.support:
        yield (
            f"Surfaces that the training rows do not have: f1 {100 * scores.unseen.f1:.2f}, against "
            f"{100 * scores.seen.f1:.2f} for those they have. Expect the first on other texts."
        )
    wrong = {kind.replace("_", " "): count for kind, count in scores.problems.items() if count}
    if contract["decoding"] == "free":
        found = ", ".join(f"{count:,} {kind}" for kind, count in wrong.items()) or "nothing of the kind"
        yield (
            f"Left to itself it wrote in {contract['rows']:,} rows: {found}. `Extractor` lets it write only what is in "
            "the text and in the format; other ways to run it have to check."
        )
    seed = f" (seed {recipe['seed']})" if "seed" in recipe else ""
    yield (
        f"One training run{seed}; the intervals are over the scored "
        "rows, and say nothing of how far another seed would end."
    )
    if contract["split"] == "validation":
        yield "The rows scored are those that chose the checkpoint: the figures are a little kind."
    if metrics.get("spurious"):
        spurious = metrics["spurious"]
        yield (
            f"In {spurious['sentences']:,} sentences without entities it found {spurious['per_1000']:.1f} in 1,000 of "
            "them."
        )
    else:
        yield "How often it finds something in sentences without entities was not measured: the scored rows have none."
    if config.window:
        yield f"It was trained on texts of at most {config.window:,} characters; longer ones are read in parts."
    data = plain(contract["data"])
    yield f"Only texts like those of {data} were scored; on others, score some rows of your own first."


def history(folder: Path) -> list[dict[str, Any]]:
    """The Trainer's log of the training, empty where the folder has none."""
    path = folder / STATE
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["log_history"])
    except (ValueError, LookupError, TypeError) as error:
        raise NerError(
            f"{path}: no log of a training can be read there ({error}); take the file from the last checkpoint, or "
            "remove it to do without the log"
        ) from None


def curve(log: Sequence[Mapping[str, Any]], lines: int | None = None) -> list[dict[str, Any]]:
    """An entry an evaluation: step, the training loss logged last before it, validation loss and scores.

    `lines` keeps that many, evenly, the first and the last among them.
    """
    loss: float | None = None
    found: list[dict[str, Any]] = []
    for entry in log:
        loss = entry.get("loss", loss)
        if "eval_f1" in entry:
            names = ("eval_loss", "eval_f1", "eval_span_f1", "eval_macro_f1")
            found.append({"step": entry["step"], "loss": loss, **{name: entry.get(name) for name in names}})
    if lines is None or len(found) <= lines:
        return found
    return [found[round(i * (len(found) - 1) / (lines - 1))] for i in range(lines)]


def draw_curve(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and scores over steps, as a PNG at `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, keys in zip(
        figure.subplots(1, 2),
        (
            {"loss": "training loss", "eval_loss": "validation loss"},
            {"eval_f1": "f1", "eval_span_f1": "span_f1", "eval_macro_f1": "macro_f1"},
        ),
        strict=True,
    ):
        for (key, name), color in zip(keys.items(), (FIRST, SECOND, INK), strict=False):
            if points := [(entry["step"], entry[key]) for entry in log if key in entry]:
                axes.plot(*zip(*points, strict=True), label=name, color=color, marker="o", markersize=2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel="steps", ylim=(0, None))
        axes.legend(frameon=False)
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def _scored(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of an evaluation."""
    scores = Scores.from_dict(metrics)
    sums: list[tuple[str, Counts | None]] = [("f1", scores.micro), ("span_f1", scores.span_micro), ("macro_f1", None)]
    sums += [
        (name, counts) for name, counts in (("seen", scores.seen), ("unseen", scores.unseen)) if counts is not None
    ]
    bounds = {"seen": "seen_f1", "unseen": "unseen_f1"}
    return {
        "contract": Contract(**metrics["contract"]),
        "labels": [(label, scores.surface[label], _interval(metrics, label)) for label in scores.labels],
        "sums": [
            (
                name,
                counts,
                scores.macro_f1 if counts is None else counts.f1,
                _interval(metrics, bounds.get(name, name), ""),
            )
            for name, counts in sums
        ],
        "problems": {kind.replace("_", " ").replace("json", "JSON"): count for kind, count in scores.problems.items()},
        "floor": metrics.get("floor"),
        "ceiling": metrics.get("ceiling"),
        "confidence": metrics.get("confidence") or None,
        "resamples": metrics["intervals"]["resamples"],
    }


def _interval(metrics: Mapping[str, Any], name: str, prefix: str = "f1_") -> str:
    bounds = metrics["intervals"].get(f"{prefix}{name}")
    return str(Interval(*bounds)) if bounds else ""
