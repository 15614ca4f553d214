"""Any number of texts on a Ray cluster: an `Extractor` on each GPU, blocks of rows from one to the other.

In: a Ray `Dataset` with a column of texts, or files of texts, and a trained folder that every node sees. Out: the
dataset with its entities, or a folder of results that an interrupted job goes on with. Ray moves the blocks, and
repeats those of an actor or node that dies. Knows nothing of how one text is read.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.datasets import TextRow
from ...entities import NerError
from ...files import install_line, lock
from ..batch_predict import result_lines
from ..cores import usable_cores
from ..hub_download import local_folder
from ..output_file import model_fingerprint

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from ..extractor import Extractor

BLOCK = 128 * 1024
"""Bytes of a block, some 800 sentences: what is repeated if an actor dies. Ray's own 128 MiB would take hours."""

CPUS = {"actor": 0.2, "read": 0.25, "write": 0.5}
"""The share of a CPU that each asks for. Actors that had all CPUs would wait in silence for blocks that nothing reads;
were actor and read alike, Ray would make one task of both, for a whole file."""

LEAST_CPUS = 2
"""CPUs of the largest node: Ray's filter of what is finished takes one, reading and writing need some beside it."""


def extract_dataset(
    dataset: Dataset,
    model: str | Path,
    *,
    revision: str | None = None,
    replicas: int | None = None,
    dtype: str = "auto",
    **options: Any,
) -> Dataset:
    """`dataset`, which has a column `text`, with the columns `entities`, `problems` and `error`. Lazy, as Ray's own.

    `replicas` actors hold one `Extractor` each, by default one for each GPU of the cluster, or else for each node. It
    computes in `dtype`; `options` are those of `Extractor.predictions`. A row whose text is missing, blank or too long
    has no entities but an `error`, and a row that came with an `error` keeps it. Raises `NerError` if `model` is no
    trained folder; that a node lacks it, or has another qwen_ner, is raised when the dataset is consumed.

    >>> import ray  # doctest: +SKIP
    >>> texts = ray.data.read_parquet("s3://bucket/reviews")  # doctest: +SKIP
    >>> extract_dataset(texts, "/shared/ner").write_parquet("s3://bucket/entities")  # doctest: +SKIP
    """
    import ray
    from ray.data import ActorPoolStrategy

    folder = local_folder(model, revision)
    place = _shared_place(model, folder)
    have = ray.cluster_resources()
    gpus, cpus = int(have.get("GPU", 0)), have.get("CPU", 1)
    replicas = replicas or gpus or sum(node["Alive"] for node in ray.nodes())
    threads = 0 if gpus else max(1, int(cpus // replicas))
    return dataset.map_batches(
        _Replica,
        fn_constructor_args=(options, place, revision, model_fingerprint(folder), version("qwen_ner"), threads, dtype),
        batch_format="pyarrow",
        batch_size=None,
        compute=ActorPoolStrategy(size=replicas),
        num_gpus=1 if gpus else None,
        num_cpus=max(0.0001, min(CPUS["actor"], round(cpus / 5 / replicas, 4))),  # in steps of Ray's
        udf_modifying_row_count=False,
    )


def _shared_place(model: str | Path, folder: Path) -> str:
    """What nodes, whose working directories are others, call the model: the Hub's id, or the whole path."""
    return str(folder.resolve()) if Path(model).exists() else str(model)


class _Replica:
    """An extractor on one node; it must be of the same model and package as the job's.

    What is wrong here is raised with the first block: Ray would report that the actor died, without the reason.
    """

    def __init__(self, options: dict[str, Any], *model: Any) -> None:
        self._options, self._fault = options, None
        try:
            self._extractor = _load(*model)
        except NerError as error:
            place = f"{error.place} (node {platform.node()})"
            self._fault = NerError(error.what, value=error.value, place=place, remedy=error.remedy)

    def __call__(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        from .files import RESULTS

        if self._fault:
            raise self._fault
        if "text" not in table.column_names:
            remedy = 'rename the column of texts: dataset.rename_columns({"…": "text"})'
            raise NerError('the dataset has no column "text"', value=table.column_names, remedy=remedy)
        rows = list(map(_text_row, table.select(list({*ROW} & {*table.column_names})).to_pylist()))
        lines = list(result_lines(self._extractor, rows, False, self._options))
        for name, kind in RESULTS.items():
            values = [line.get(name, None if "error" in line or name == "error" else []) for line in lines]
            if name in table.column_names:
                table = table.drop_columns(name)
            table = table.append_column(name, pa.array(values, kind))
        return table


ROW = ("id", "text", "source", "error")
"""The columns of a dataset that are read; `source` or `id` call a row in messages."""


def _text_row(row: dict[str, Any]) -> TextRow:
    from .files import table_row

    place = str(row.get("source") or row.get("id") or "this row")
    if fault := row.get("error"):
        return TextRow("", None, place, str(fault))
    return table_row({"text": row["text"]}, "", place)


def _load(model: str, revision: str | None, expected: str, release: str, threads: int, dtype: str) -> Extractor:
    """The model on this node. Raises `NerError` unless it and the package are those of the job."""
    import torch

    from ..extractor import Extractor

    if (here := version("qwen_ner")) != release:
        what, remedy = "another version than the job's", f"install qwen_ner {release} on every node"
        raise NerError(what, value=here, place="qwen_ner", remedy=remedy)
    share = "put it on a disk that all nodes share, copy it to the same path on each, or give a Hub id"
    if Path(model).is_absolute() and not Path(model).is_dir():
        raise NerError("no such folder", place=model, remedy=share)
    folder = local_folder(model, revision)
    if (found := model_fingerprint(folder)) != expected:
        raise NerError(f"is another model than the job's ({expected})", value=found, place=model, remedy=share)
    if threads:
        torch.set_num_threads(threads)  # Ray has set it to the CPUs that the actor asks for
    return Extractor.from_pretrained(folder, dtype=dtype)


def predict_files(
    model: str,
    names: Sequence[str],
    output: str,
    *,
    form: str = "json",
    address: str | None = None,
    revision: str | None = None,
    replicas: int | None = None,
    dtype: str = "auto",
    **options: Any,
) -> tuple[int, int]:
    """Write a result for each text in the files `names` to the folder `output`; returns how many, and how many errors.

    Paths and URLs, as `files.find_files` reads them; `form` is json or parquet; `dtype` and `options` are those of
    `extract_dataset`. The job runs on the cluster at `address` or RAY_ADDRESS, or else on this machine. Beside
    `output`, the folder `output`.job says what has been written: the same call goes on from there, also after the end.
    Raises `NerError` for what cannot be read or written, and if the results there are of another job.
    """
    try:
        import ray
        from ray.data.checkpoint import CheckpointConfig
    except ImportError as error:
        remedy = f"install it: {install_line('ray')}"
        raise NerError("Ray is not installed", place="--engine ray", remedy=remedy) from error
    from .files import KEY, Results, Texts, arrow_place, files_fingerprint, find_files, make_folder, open_record

    files = find_files(names)
    for file in files:
        file.check()
    filesystem, folder = arrow_place(output)
    job = f"{folder}.job"
    record = {
        "model": model,
        "fingerprint": model_fingerprint(local_folder(model, revision)),
        "dtype": dtype,
        "format": form,
        "input": files_fingerprint(files),
        **{key: options.get(key) for key in ("min_score", "thresholds", "samples", "temperature", "top_p", "beams")},
    }
    with ExitStack() as stack:
        for made in (folder, job):
            make_folder(filesystem, made)
        if filesystem.type_name == "local":
            stack.enter_context(lock(Path(job, "lock"), owner=f"process {os.getpid()}"))
        open_record(filesystem, folder, f"{job}/record.json", record)
        stack.enter_context(_cluster(address))
        stack.enter_context(_explain(output))
        dataset = ray.data.read_datasource(Texts(files), override_num_blocks=len(files), num_cpus=CPUS["read"])
        dataset.context.target_max_block_size = BLOCK
        dataset.context.max_consecutive_actor_init_deaths = 3
        dataset.context.raise_original_map_exception = True
        dataset.context.checkpoint_config = CheckpointConfig(
            KEY, f"{job}/checkpoint", override_filesystem=filesystem, delete_checkpoint_on_success=False
        )
        found = extract_dataset(dataset, model, revision=revision, replicas=replicas, dtype=dtype, **options)
        sink = Results(folder, filesystem, form, f"{job}/record.json")
        found.write_datasink(sink, ray_remote_args={"num_cpus": CPUS["write"]})
        return sink.count()


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connected to a cluster, until the block ends unless it was before. Raises `NerError` if there is none."""
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself tries for minutes
        cpus = max(LEAST_CPUS, usable_cores()) if address == "local" else None
        ray.init(address, num_cpus=cpus, include_dashboard=False if address == "local" else None)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        remedy = "start one there with `ray start --head` or `ray up`, or leave --address out to use this machine alone"
        raise NerError(f"no Ray cluster answers ({error})", place=address, remedy=remedy) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _explain(output: str) -> Iterator[None]:
    """Raise what a node raised as the `NerError` it was, and what happened to Ray as one with a remedy."""
    from ray.exceptions import RayError

    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)  # it logs whole tracebacks of what is raised
    try:
        yield
    except Exception as error:
        causes = list(_causes(error))
        kept = "what is finished is kept, and the same command goes on"
        for cause in causes:
            if isinstance(cause, NerError) and not isinstance(cause, RayError):
                remedy = f"{cause.remedy}; {kept}" if cause.remedy else kept
                raise NerError(cause.what, value=cause.value, place=cause.place, remedy=remedy) from error
        if type(error).__module__.startswith("ray."):
            said = f"{type(causes[-1]).__name__}: {causes[-1]}".strip().partition("\n")[0]
            raise NerError(f"the job ended ({said})", place=output, remedy=f"see the log above; {kept}") from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
