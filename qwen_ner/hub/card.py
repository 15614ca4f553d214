"""The model card.

In: a trained folder, its id on the Hub and its base model's. Out: the text of README.md, and a plot of the training.
Every figure is from metrics.json or trainer_state.json; the card says so if the model was not scored. Knows nothing of
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
from ..data.formats.cluener import SPLITS
from ..data.tokenize import takes_system_turn
from ..evaluation.bootstrap import Interval
from ..evaluation.report import CURVES, draw_curves, templates
from ..evaluation.scoring import Scores
from ..evaluation.table import FEW, VIEWS, Contract, macro_note, problem_counts
from ..files import read_json, write_text
from ..inference.hub_download import ADAPTER
from ..inference.loading import load_tokenizer
from .neutral import (
    CARD,
    CURVE,
    STATE,
    check_folder,
    data_name,
    is_local_data,
    neutral_metrics,
    neutral_recipe,
    parent_of,
    read_metrics,
    read_recipe,
)

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

WEAKEST = 3
"""How many of the weakest labels the card names."""

LISTED = 20
"""Labels that a limit names; more are counted."""

CURVE_LINES = 12
"""Evaluations in the card's table; the plot has all."""

SENTENCE, CHINESE = "Samsung opened a new store in Beijing", "三星在北京开了一家新店"
"""The example, if the recipe has none that is public."""


def write_card(folder: Path, repo_id: str, base_model: str | None, out: Path) -> None:
    """Write the `model_card` of the model in `folder` to `out`, and beside it a plot of loss and scores over steps."""
    write_text(out / CARD, [model_card(folder, repo_id, base_model=base_model)])
    if log := history(folder):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3), layout="constrained")
        for axes, names in zip(figure.subplots(1, 2), CURVES.values(), strict=False):
            draw_curves(axes, log, names)
        figure.savefig(out / CURVE, format="png", dpi=120, metadata={"Software": None})


def model_card(folder: str | Path, repo_id: str, *, base_model: str | None = None) -> str:
    """The text of the card of the model in `folder`, as the repository `repo_id`.

    `base_model` is the id of its base on the Hub, if it has one. Without a metrics.json the card has no scores and says
    so. Raises `NerError` if the folder holds no trained model.
    """
    folder = Path(folder)
    config = check_folder(folder)
    values, known, given = read_metrics(folder), read_metrics(parent_of(folder)) or {}, read_recipe(folder)
    recipe = neutral_recipe(given, base_model, known)
    metrics = {} if values is None else neutral_metrics(values, repo_id, base_model)
    chinese = is_chinese(_texts(folder, given))
    sentence = (recipe.get("examples") or [CHINESE if chinese else SENTENCE])[0]
    trained_on = str(given.get("dataset") or known.get("training", {}).get("dataset", ""))
    scored_on = values["contract"]["data"] if values else ""
    public = [name for name in (trained_on, scored_on) if name and not is_local_data(name, known)]
    log = history(folder)
    training = metrics.get("training", {})
    validation = training.get("validation", {})
    intervals = metrics.get("intervals", {})
    environment = templates("qwen_ner.hub", html=False)
    environment.filters["plain"] = plain
    environment.filters["python"] = lambda text: json.dumps(text, ensure_ascii=False)
    environment.filters["interval"] = lambda name: str(Interval(*bounds)) if (bounds := intervals.get(name)) else ""
    return environment.get_template("model_card.md.j2").render(
        metadata=metadata(folder, repo_id, metrics, recipe, base_model, public, chinese).to_yaml(),
        repo_id=repo_id,
        base=base_model or recipe.get("model_name_or_path"),
        toy=recipe.get("model_name_or_path") == "tiny",
        adapter=(folder / ADAPTER).is_file(),
        config=config,
        messages=config.codec().messages(sentence, system_turn=takes_system_turn(load_tokenizer(folder))),
        dataset=data_name(trained_on, known) if trained_on else "",
        local_data=trained_on not in public,
        # A validation split was held out of train by the training: no command finds it again.
        scored_again=scored_on in public and metrics["contract"]["split"] in SPLITS,
        sentence=sentence,
        metrics=metrics,
        contract=Contract(**metrics["contract"]) if metrics else None,
        **_label_figures(metrics),
        few_surfaces=FEW,
        listed=LISTED,
        views=VIEWS,
        problem_counts=problem_counts,
        seed=recipe.get("seed"),
        recipe=fence_block(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False).strip()) if recipe else "",
        training=training,
        chosen_on=validation if validation.get("step") is not None else None,
        curve=curve(log),
        picture=CURVE,
    )


def _label_figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The scores, and the labels that the card warns of: (label, counts) of the weakest and the rare, the absent."""
    if not metrics:
        return {"scores": None}
    scores = Scores.from_dict(metrics)
    known = {label: counts for label, counts in scores.surface.items() if counts.support}
    ranked = sorted((label for label in scores.labels if label in known), key=lambda label: known[label].f1)
    return {
        "scores": scores,
        "weakest": [(label, known[label]) for label in ranked[:WEAKEST]],
        "macro_note": macro_note(scores),
        "few": [(label, counts) for label, counts in known.items() if counts.support < FEW],
        "absent": [label for label in scores.labels if label not in known],
    }


def plain(text: object) -> str:
    """`text` on one line of Markdown, escaped: it cannot become a tag, a link, an image or a cell of a table.

    >>> print(plain("a|b\\n![x](y) <script> R&D drug_name"))
    a\\|b !\\[x\\](y) &lt;script&gt; R&amp;D drug_name
    """
    return re.sub(r"([\\\[\]`*|~])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def fence_block(text: str) -> str:
    """`text` as a block of YAML, with a longer fence than any in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text}\n{fence}"


def metadata(
    folder: Path,
    repo_id: str,
    metrics: Mapping[str, Any],
    recipe: Mapping[str, Any],
    base_model: str | None,
    public: Sequence[str],
    chinese: bool,
) -> ModelCardData:
    """The YAML at the head of the card; `metrics` and `recipe` are neutral, `public` names data sets of the Hub."""
    from huggingface_hub import EvalResult, ModelCardData

    adapter = (folder / ADAPTER).is_file()
    scores = Scores.from_dict(metrics) if metrics else None
    contract, dataset = metrics.get("contract", {}), str(recipe.get("dataset", ""))
    results = [
        EvalResult(
            task_type="token-classification",
            task_name="Named entity recognition",
            dataset_type=contract["data"].partition(":")[0] if contract["data"] in public else "local",
            dataset_name=str(contract["data"]),
            dataset_split=contract["split"],
            dataset_revision=contract["fingerprint"],
            dataset_args={"rows": contract["rows"], "decoding": contract["decoding"]},
            metric_type="f1",
            metric_name=name,
            metric_value=getattr(scores, name),
        )
        for name in ("f1", "span_f1", "macro_f1")
        if scores
    ]
    return ModelCardData(
        language="zh" if chinese else None,  # another language is the user's to add
        library_name="peft" if adapter else "transformers",
        pipeline_tag="token-classification",
        base_model=base_model,
        base_model_relation=None if base_model is None else "adapter" if adapter else "finetune",
        datasets=[dataset.partition(":")[0]] if dataset in public and dataset != "sample" else None,
        tags=["named-entity-recognition", "ner", "information-extraction", NerConfig.load(folder).target, "qwen_ner"],
        metrics=["f1"],
        model_name=repo_id.split("/")[-1],
        eval_results=results or None,
    )


def _texts(folder: Path, recipe: Mapping[str, Any]) -> list[str]:
    """Texts to tell the language by: the scored rows, or the examples of the recipe."""
    path = folder / "predictions.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []  # a text may hold U+2028
    rows = [json.loads(line) for line in lines if line]  # those that `predict` could not read have no text
    return [row["text"] for row in rows if "text" in row] or recipe.get("examples") or []


def is_chinese(texts: Iterable[str]) -> bool:
    """Whether a good part of the letters are Chinese characters, without the kana of Japanese.

    >>> is_chinese(["三星WCG2011北京赛区"]), is_chinese(["東京でラーメンを食べた"]), is_chinese(["Seoul"])
    (True, False, False)
    """
    letters = [character for text in texts for character in text if character.isalpha()]
    han = sum("\u4e00" <= character <= "\u9fff" for character in letters)
    kana = sum("\u3040" <= character <= "\u30ff" for character in letters)
    return 4 * han > len(letters) and 20 * kana < han


def history(folder: Path) -> list[dict[str, Any]]:
    """The `log_history` of the training; empty if the folder has none."""
    path = folder / STATE
    remedy = "copy the file from the last checkpoint, or remove it to go without the log"
    return read_json(path, remedy)["log_history"] if path.is_file() else []


def curve(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per evaluation: step, the last training loss before it, validation loss and scores.

    Of more than `CURVE_LINES` only that many, evenly spaced, the first and the last among them.
    """
    loss: float | None = None
    found: list[dict[str, Any]] = []
    for entry in log:
        loss = entry.get("loss", loss)
        if "eval_f1" in entry:
            names = ("eval_loss", "eval_f1", "eval_span_f1", "eval_macro_f1")
            found.append({"step": entry["step"], "loss": loss, **{name: entry.get(name) for name in names}})
    if len(found) <= CURVE_LINES:
        return found
    return [found[round(i * (len(found) - 1) / (CURVE_LINES - 1))] for i in range(CURVE_LINES)]
