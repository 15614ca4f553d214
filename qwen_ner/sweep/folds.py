"""Cross-fitting: every annotated row predicted by a model that has seen neither it nor a row like it.

In: a recipe and a number of folds. Out: a model a fold, and one file of what they predict. Knows nothing of what is
done with the predictions.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from accelerate.utils import wait_for_everyone
from accelerate.utils.memory import clear_device_cache

from ..columns import join_names
from ..data.analysis.duplicates import groups_of_alike
from ..data.arrow_store import select_rows
from ..data.formats.errors import count
from ..data.formats.jsonl import as_row
from ..data.negatives import no_negatives, read_negatives, surfaces_of
from ..entities import Example, LabelSet, NerError
from ..files import json_line, write_text
from ..inference.annotated import prediction_lines
from ..inference.batch_predict import gather
from ..inference.extractor import Extractor
from ..training.loop.checkpoints import alone_in
from ..training.preparation import check_processes, claim_output, read_splits
from ..training.recipe import Recipe, load_recipe
from ..training.run import train

log = logging.getLogger(__name__)

OUTPUT = "folds.jsonl"

TRAIN, HELD_OUT, PREDICTIONS, MODEL = "train.jsonl", "held_out.jsonl", "predictions.jsonl", "model"
"""In the folder of a fold. It is finished when it has its predictions."""

RECIPE, NEGATIVES = "recipe.json", "negatives.jsonl"
"""Beside these folders: the keys of the recipe, and the texts of `negatives_from` that no fold knows."""

BESIDE = re.compile(
    "output_dir|resume_from_checkpoint|report_to|run_name|project|trackio.*|(push_to_)?hub.*|log.*|disable_tqdm|examples"
    "|dataloader.*|dataset_num_proc|per_device_eval_batch_size|save_total_limit|save_only_model"
)
"""Keys that do not change what a fold predicts."""

ANEW = "empty the folder of the folds, or choose another --output_dir"


def cross_fit(path: Path, overrides: Sequence[str], folds: int) -> Path:
    """Train a model for each of `folds` parts of the train split, on the rows of the others, to predict its rows.

    `output_dir` gets a folder a fold and folds.jsonl: a line for each row, in the order of the split, as
    `inference.annotated.prediction_lines` writes it. A fold that is finished is not trained again, and a training that
    was interrupted goes on. The seed of the recipe draws the folds. Their models are not pushed.

    Raises `NerError` if the recipe or its data has a fault, or `output_dir` has folds of other rows; otherwise as
    `train`.
    """
    recipe = load_recipe(path, overrides)
    check_processes(recipe.training)
    splits = read_splits(recipe.data)
    for note in splits.notes:
        log.warning("%s", note)
    texts, groups = zip(*((example.text, example.group) for example in splits.annotated), strict=True)
    parts = assign(texts, folds, recipe.training.seed, groups)
    output, rank = claim_output(recipe), recipe.training.process_index
    with alone_in(output, rank):
        with recipe.training.main_process_first(desc=f"writing {output}"):
            _check_recipe(recipe, output)
            given = _own_negatives(recipe, splits.annotated, output)
        for n, held in enumerate(parts, start=1):
            folder, rows = output / f"fold-{n}", set(held)
            others = [row for row in range(len(splits.annotated)) if row not in rows]
            held_out = select_rows(splits.annotated, held)
            with recipe.training.main_process_first(desc=f"writing {folder}"):
                _write_once(folder / HELD_OUT, _lines(held_out))
                _write_once(folder / TRAIN, _lines(select_rows(splits.annotated, others)))
            if (folder / PREDICTIONS).exists():
                log.info("%s is finished; remove the folder to train it again.", folder)
                continue
            log.info("Fold %d of %d: %d rows to train on, %d to predict.", n, folds, len(others), len(held))
            train(load_recipe(path, [*overrides, *_overrides(folder, splits.labels, given)]), advise=False)
            wait_for_everyone()  # the first process writes the calibration of the model when the others are done
            clear_device_cache(garbage_collection=True)  # the trainer is a reference cycle, and holds the model
            _predict(folder, held_out, recipe)
        if rank == 0:
            print(_join(output, parts))
    return output / OUTPUT


def assign(texts: Sequence[str], folds: int, seed: int, names: Sequence[str] = ()) -> list[list[int]]:
    """The numbers of `texts` in `folds` parts of about the same size.

    Texts that are alike are in one part, and those of one group, whose `names` are "" for texts without.

    >>> assign(["今天天气很好", "下雨了", "今天天气很好！", "刮风了"], 2, seed=0)
    [[0, 2], [1, 3]]
    """
    groups = groups_of_alike(texts, names=names)
    if not 2 <= folds <= len(groups):
        more = "add rows with other texts"
        remedy = more if len(groups) < 2 else f"choose from 2 to {len(groups)}, or {more}"
        raise NerError("cannot make so many folds of different texts", value=folds, place="--folds", remedy=remedy)
    random.Random(seed).shuffle(groups)
    parts: list[list[int]] = [[] for _ in range(folds)]
    for group in sorted(groups, key=len, reverse=True):
        min(parts, key=len).extend(group)
    return [sorted(part) for part in parts]


def _own_negatives(recipe: Recipe, annotated: Sequence[Example], output: Path) -> dict[str, Path]:
    """Where the folds read the recipe's file of texts without entities: a copy without what is like a row of theirs."""
    source = recipe.data.negatives_from
    if recipe.data.negatives is None or source == "clauses":
        return {}
    found, texts = read_negatives(source, surfaces_of(annotated))[0], [example.text for example in annotated]
    groups = groups_of_alike([*texts, *(one.text for one in found)])
    alike = {n - len(texts) for group in groups if min(group) < len(texts) for n in group}
    if not (kept := [one for n, one in enumerate(found) if n not in alike]):
        raise no_negatives(source)
    _write_once(output / NEGATIVES, _lines(kept))
    return {"negatives_from": output / NEGATIVES}


def _overrides(folder: Path, labels: LabelSet, given: Mapping[str, Path]) -> list[str]:
    """What a fold changes in the recipe. The labels are those of all rows: a rare one may be in one fold alone."""
    values = {
        **given,
        "dataset": folder / TRAIN,
        "data_dir": None,
        "labels": {label.name: label.description for label in labels},
        "output_dir": folder / MODEL,
        "push_to_hub": False,
    }
    return [f"--{key}={value}" for key, value in values.items()]


def _lines(examples: Iterable[Example]) -> list[str]:
    return [json_line(as_row(example)) for example in examples]


def _check_recipe(recipe: Recipe, output: Path) -> None:
    """Raise `NerError` if there are folds of another recipe: they would be one file with those of this."""
    asked = {key: json.dumps(value, default=str) for key, value in recipe.values.items() if not BESIDE.fullmatch(key)}
    path = output / RECIPE
    if not path.exists():
        if any(output.glob("fold-*")):
            raise NerError("its folds are of a recipe that is not known", place=output, remedy=ANEW)
        write_text(path, [json_line(asked)])
    known = json.loads(path.read_bytes())
    if changed := sorted(key for key in asked.keys() | known.keys() if asked.get(key) != known.get(key)):
        raise NerError(f"its folds are of a recipe that differs in {join_names(changed)}", place=path, remedy=ANEW)


def _write_once(path: Path, lines: Sequence[str]) -> None:
    """Raises `NerError` if the file is there and has other lines: what was trained there may have seen rows of now."""
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_text(path, lines)
    elif path.read_bytes() != "".join(lines).encode():
        changed = "has other rows; the data, their labels, --folds or the seed have changed since"
        raise NerError(changed, place=path, remedy=ANEW)


def _predict(folder: Path, held_out: Sequence[Example], recipe: Recipe) -> None:
    """Write the predictions of a fold; each rank makes its share."""
    args = recipe.training
    extractor = Extractor.from_pretrained(folder / MODEL, device=str(args.device))
    own = select_rows(held_out, range(args.process_index, len(held_out), args.world_size))
    lines = gather(list(prediction_lines(extractor, own)), args.world_size)
    if args.process_index == 0:
        write_text(folder / PREDICTIONS, map(json_line, lines))
    del extractor
    clear_device_cache(garbage_collection=True)


def _join(output: Path, parts: Sequence[Sequence[int]]) -> str:
    """Write the predictions of all folds to one file, in the order of the rows; returns what to say of them."""
    lines = dict[int, str]()
    for n, part in enumerate(parts, start=1):
        written = (output / f"fold-{n}" / PREDICTIONS).read_text(encoding="utf-8")
        lines |= zip(part, written.removesuffix("\n").split("\n"), strict=True)  # a text may have a U+2028
    write_text(output / OUTPUT, (lines[row] + "\n" for row in sorted(lines)))
    rows = [json.loads(line) for line in lines.values()]
    refused = sum("error" in row for row in rows)
    unasked = sum("annotated" not in row for row in rows) - refused
    seen = f"each predicted by the one of {len(parts)} models that has not seen it"
    said = [f"{output / OUTPUT}: {len(rows):,} rows, {seen}"]
    if refused:
        said.append(f"{count(refused, 'row')} do not fit into the model's context and have an error instead")
    if unasked:
        said.append(f"{count(unasked, 'row')} are too long to ask a model for their annotation, so it is not doubted")
    return "\n".join(said)
