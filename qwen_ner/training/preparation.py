"""What is checked and prepared before the first step: processes, output folder, data.

In: the parts of a recipe. Out: errors and warnings while they are still cheap, and the rows to train on. Loads no
model.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import psutil
import torch
import yaml
from accelerate.utils import broadcast_object_list, gather_object, wait_for_everyone

from ..data.analysis.duplicates import digest
from ..data.arrow_store import StoredExamples
from ..data.datasets import NAMED, check_labels, has_split, iter_dataset, labels_of
from ..data.formats.errors import count
from ..data.negatives import draw, entity_free, no_negatives, read_negatives, surfaces_of
from ..data.notes import Watch
from ..data.split import hold_out
from ..entities import CLUENER, Example, LabelSet, NerError
from ..files import write_text
from ..hub.neutral import RECIPE
from ..inference.cores import usable_cores
from .arguments import MIXED_PRECISION, DataArguments, NerTrainingArguments, how_to_go_on
from .finding import FaultsError
from .launch import Launch, command_for, sharding_faults
from .recipe import Recipe

log = logging.getLogger(__name__)

HELD_OUT_SHARE = 0.1
"""The most that is held out of the rows of a data set that has no dev split."""

HELD_OUT = "validation"
"""The split of rows that were held out of train; a dev split is called dev."""


@dataclass(frozen=True)
class Splits:
    """Rows to train on, rows to choose the checkpoint by, and the final test (empty if the data set has none).

    `validation_name` is "dev" or `HELD_OUT`, `final_name` the split that `final` is or would be, "dev" or "test".
    `annotated` is the whole train split, with the rows that were held out or left out. It is stored on disk, and so is
    what is selected from it.
    """

    labels: LabelSet
    train: Sequence[Example]
    validation: Sequence[Example]
    final: Sequence[Example]
    annotated: Sequence[Example]
    validation_name: str
    final_name: str
    notes: tuple[str, ...] = ()
    """What reading them has to warn of."""

    @property
    def scored_name(self) -> str:
        """The split of the final score."""
        return self.final_name if self.final else self.validation_name

    @property
    def seen(self) -> Sequence[Example]:
        """The rows whose surfaces the final score counts as seen: those trained on and, unless they are scored
        themselves, those that were held out of train."""
        if self.final and self.validation_name == HELD_OUT:
            return StoredExamples.of(chain(self.train, self.validation))
        return self.train

    def __str__(self) -> str:
        """Which rows do what, on one line."""
        chosen = "held out of train" if self.validation_name == HELD_OUT else "of dev"
        score = f"{count(len(self.final), 'row')} of {self.final_name}" if self.final else "these too"
        return (
            f"training on {count(len(self.train), 'row')}; the checkpoint is chosen by "
            f"{count(len(self.validation), 'row')} {chosen}; the final score is of {score}"
        )


def read_splits(data: DataArguments) -> Splits:
    """The splits that a recipe asks for; they are logged. The seed does not change them, so that runs can be compared.

    The dev split chooses the checkpoint, the test split is the final score. Without a dev split rows of train choose:
    `validation_rows`, a tenth of train at most, with equal texts in one part. CLUENER, whose test split has no labels,
    and the sample have another protocol: `validation_rows` of train choose, and dev is the final score; with 0 they are
    split as any other data set.
    """
    asked = LabelSet.of(data.labels) if data.labels else None
    known = CLUENER if data.dataset in NAMED and not asked else None
    watch = Watch(keep=frozenset(asked.names) if asked else None)
    read = partial(iter_dataset, data.dataset, labels=known, data_dir=data.data_dir, repair=data.repair, watch=watch)
    annotated = StoredExamples.of(read("train"))
    as_cluener = data.dataset in NAMED and data.validation_rows > 0
    validation_name, final_name = (HELD_OUT, "dev") if as_cluener else ("dev", "test")
    validation: Sequence[Example] = [] if as_cluener else _read(data, validation_name, read)
    final = _read(data, final_name, read)
    watch.check_kept()
    labels = asked or known or labels_of(annotated)
    check_labels(chain(validation, final), labels)
    rest: Sequence[Example] = annotated
    if not validation:
        most = data.validation_rows if as_cluener else max(1, int(HELD_OUT_SHARE * len(annotated)))
        rows, validation_name = min(data.validation_rows, most), HELD_OUT
        rest, validation = hold_out(annotated, rows, seed=0, together=not as_cluener)
    limit = data.max_eval_samples
    train = rest[: data.max_train_samples]
    if added := _negatives(data, train, annotated, chain(validation, final)):
        train = StoredExamples.of(chain(train, added))
    names, notes = (validation_name, final_name), tuple(watch.lines())
    splits = Splits(labels, train, validation[:limit], final[:limit], annotated, *names, notes)
    for line in filter(None, (watch.left_out_line(), str(splits))):
        log.info("%s: %s.", data.dataset, line)
    return splits


def _read(data: DataArguments, split: str, read: Callable[[str], Iterator[Example]]) -> list[Example]:
    """The rows of a split; none if there is no such split, or one that is published without entities."""
    if not has_split(data.dataset, split, data.data_dir):
        return []
    examples = list(read(split))
    if any(example.entities for example in examples):
        return examples
    log.info("%s: %s has no entity, so it is not used.", data.dataset, split)
    return []


def _negatives(
    data: DataArguments, train: Sequence[Example], annotated: Sequence[Example], scored: Iterable[Example]
) -> list[Example]:
    """The rows without entities that a recipe adds to `train`.

    None holds a surface of `annotated`, the rows held out included, and none is one of these rows or of those that are
    `scored`, however it is typed.
    """
    if data.negatives is None:
        return []
    source, left_out, surfaces = "clauses of the training rows", 0, surfaces_of(annotated)
    if data.negatives_from == "clauses":
        found = entity_free(train, surfaces)
    else:
        source = data.negatives_from
        found, left_out = read_negatives(source, surfaces)
    known = {digest(example.text) for example in chain(annotated, scored)}
    candidates = [one for one in found if digest(one.text) not in known]
    left_out += len(found) - len(candidates)
    if not candidates and data.negatives_from != "clauses":
        raise no_negatives(source)
    wanted = max(1, round(data.negatives * len(train)))
    added = draw(candidates, wanted, seed=0)
    log.info(
        "Added %d rows without entities to the %d training rows, from %d candidates in %s%s.",
        *(len(added), len(train), len(candidates), source),
        f" ({left_out} others are repeated, are rows of the data, or hold an annotated surface)" if left_out else "",
    )
    if len(added) < wanted:
        why = f"negatives: {data.negatives} asks for {wanted} rows, but {source} give only {len(added)}"
        log.warning("%s; lower it, or name a file of texts with negatives_from.", why)
    return added


def check_metric(args: NerTrainingArguments, labels: LabelSet) -> None:
    """Raise `NerError` if the best checkpoint is to be chosen by the f1 of a label that the data set lacks."""
    metric = str(args.metric_for_best_model).removeprefix("eval_")
    if metric.startswith("f1_") and metric.removeprefix("f1_") not in labels.names:
        remedy = f"choose f1, or f1_ and one of {', '.join(labels.names)}"
        raise NerError("no such label", value=metric, place="metric_for_best_model", remedy=remedy)


def check_processes(args: NerTrainingArguments) -> None:
    """Take one GPU per process. Raises `NerError` if processes do not know of each other, or would save no model.

    Processes that do not know of each other would each train on all rows, and write to the same folder.
    """
    launch = Launch.of_environment(os.environ)
    if launch.num_processes > 1 and args.world_size == 1:
        remedy = "launch with accelerate_configs/ddp_4gpu.yaml, or on CPUs with cpu_2proc.yaml and use_cpu: true"
        what = f"WORLD_SIZE is {launch.num_processes}, but this process sees itself alone"
        raise NerError(what, remedy=remedy)
    faults = sharding_faults(launch)
    on_cpus = args.world_size > 1 and args.device.type == "cpu"
    if args.ddp_bf16_gradients and (launch.shards_states or on_cpus):
        what = "torch compresses gradients on GPUs and with plain data parallelism only (ddp_4gpu.yaml)"
        faults.append(NerError(what, value=True, place="ddp_bf16_gradients", remedy="remove it"))
    if faults:
        raise FaultsError(faults)
    if args.n_gpu > 1:
        # DataParallel, the Trainer's own way, would cut a packed row in the middle of its examples.
        log.warning("Training on one of %d GPUs. To use all of them: %s", args.n_gpu, command_for(args.n_gpu))
        args._n_gpu = 1  # as the Trainer sets it for a model that is spread over GPUs


def use_cores(args: NerTrainingArguments) -> None:
    """Train on all cores that this process may use if `accelerate launch` left one: OMP_NUM_THREADS=1 is for GPUs.

    A number of threads that the user chose is kept.
    """
    cores = usable_cores()
    if args.device.type != "cpu" or args.world_size > 1 or torch.get_num_threads() > 1 or cores == 1:
        return
    if MIXED_PRECISION in os.environ and not _threads_chosen():
        torch.set_num_threads(cores)
        log.info("Training on the CPU with %d threads.", cores)


def _threads_chosen() -> bool:
    """Whether the launcher that started this process was told a number of threads, or cannot be asked."""
    try:
        parent = psutil.Process(os.getppid())
        told = any("num_cpu_threads_per_process" in part.replace("-", "_") for part in parent.cmdline())
        return told or "OMP_NUM_THREADS" in parent.environ()
    except psutil.Error:
        return True


def claim_output(recipe: Recipe) -> Path:
    """Make the output folder. Raises `NerError` if it cannot be written."""
    output = Path(recipe.training.output_dir)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        what, remedy = f"cannot be written ({error.strerror})", "choose another with --output_dir"
        raise NerError(what, value=str(output), place="output_dir", remedy=remedy) from None
    return output


def check_shared(args: NerTrainingArguments, output: Path) -> None:
    """Raise `NerError` on every rank if a machine does not see the first one's output folder and saves none of its own.

    It would not find the best checkpoint, and silently go on with other weights than the first machine.
    """
    if args.world_size == int(os.environ.get("LOCAL_WORLD_SIZE") or args.world_size):
        return
    sharded = Launch.of_environment(os.environ).shards_states  # checkpoints are then in parts, or on one machine
    if args.save_on_each_node and not sharded:
        return
    (name,) = broadcast_object_list([f".seen-by-all-{os.getpid()}-{time.time_ns()}"])
    mark = output / name
    if args.process_index == 0:
        mark.touch()
    wait_for_everyone()
    seen = gather_object([mark.is_file()])
    if args.process_index == 0:
        mark.unlink()
    if not all(seen):
        blind = ", ".join(str(rank) for rank, sees in enumerate(seen) if not sees)
        what = f"what rank 0 writes to {output} is not there for rank {blind} on another machine"
        remedy = "use a disk that all machines share" + ("" if sharded else ", or set save_on_each_node: true")
        raise NerError(what, place="output_dir", remedy=remedy)


@contextmanager
def explain_full_disk(args: NerTrainingArguments, output: Path) -> Iterator[None]:
    """Replace what torch, safetensors and datasets each raise on a full disk by one `NerError` with its remedy."""
    try:
        yield
    except Exception as error:
        if isinstance(error, NerError) or shutil.disk_usage(output).free > 1 << 20:
            raise
        remedy = f"free space and {how_to_go_on(args)}"
        raise NerError(f"the disk under {output} is full ({error})", place="output_dir", remedy=remedy) from error


def save_recipe(recipe: Recipe, output: Path) -> None:
    """Write the keys that were given, overrides included, as a recipe that repeats this run."""
    text = yaml.safe_dump(recipe.values, allow_unicode=True, sort_keys=False)
    write_text(output / RECIPE, [text])
