"""Extract entities from texts.

Writes one JSON object per text: id, text, entities with half-open character offsets, and problems if there are any. The
id is that of the row, or the line number; with several files it begins with the file's name.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_engine, add_extraction, add_files, add_model, check_writable, count, pick

if TYPE_CHECKING:
    from ..data.datasets import TextRow
    from ..inference.sampling import Sampling

STDIN = "-"
REFUSED = 'error: {} texts were refused; their lines in the output give the reason under "error"'


def add_arguments(parser: ArgumentParser) -> None:
    add_model(parser)
    add_files(parser)
    parser.add_argument("--text", action="append", help="a sentence; can be repeated")
    parser.add_argument(
        "--output", type=_place, metavar="FILE", help="default: standard output; with ray, a folder or URL (required)"
    )
    parser.add_argument(
        "--format",
        choices=("json", "cluener", "parquet"),
        default="json",
        help="cluener: a submission to CLUENER, made from its test.json; parquet: with ray; default: json",
    )
    add_extraction(parser)
    what = "search for the N likeliest answers to each text; an entity's score is their summed probability; default: 1"
    parser.add_argument("--beams", type=count, default=1, metavar="N", help=what)
    add_engine(parser, "ray")
    parser.add_argument(
        "--address", metavar="A", help="address of the Ray cluster; default: RAY_ADDRESS, or this machine"
    )
    parser.add_argument(
        "--replicas",
        type=count,
        metavar="N",
        help="models to load with ray; default: one per GPU, or one per node without GPUs",
    )


def run(options: Namespace, _: list[str]) -> None:
    from ..data.arriving import Arriving
    from ..inference.batch_predict import stream
    from ..inference.extractor import Extractor
    from ..inference.hub_download import local_folder
    from ..inference.output_file import fingerprint, model_fingerprint, open_output
    from ..inference.sampling import GREEDY, Sampling

    sampling = Sampling(options.samples, options.temperature, options.top_p, options.beams)
    sampling.check(options.thresholds)
    names = [] if options.text else options.files or [STDIN]
    if options.engine == "ray":
        if refused := _on_ray(options, sampling):
            sys.exit(REFUSED.format(refused))
        return
    _check(options, names)
    live = any(map(_may_pause, names))
    rank, ranks, device = _join_group(live=live)
    folder = local_folder(options.model, options.revision)
    record = {
        "model": options.model,
        "fingerprint": model_fingerprint(folder) if options.output else "",
        "engine": _engine(options.engine),
        **pick(options, "dtype", "format"),
        "min_score": sampling.floor(options.min_score),
        "thresholds": options.thresholds,
    }
    if sampling != GREEDY:
        record["sampling"] = asdict(sampling)
    if options.output and options.format == "cluener":
        record["input"] = fingerprint(map(Path, names))  # whose texts are not in the lines
    with open_output(options.output, record, write=rank == 0) as output:
        extractor = Extractor.from_pretrained(folder, backend=options.engine, device=device, dtype=options.dtype)
        rows: Any = texts_of(names, options.text)
        if live:
            rows = Arriving(rows)
            signal.signal(signal.SIGTERM, lambda *_: (rows.stop(), signal.signal(signal.SIGTERM, signal.SIG_DFL)))
        given = pick(options, "min_score", "thresholds", "batch_tokens") | asdict(sampling)
        submission = options.format == "cluener"
        refused = stream(extractor, rows, output, rank=rank, ranks=ranks, submission=submission, **given)
    if live and rows.stopped:
        print("terminated; what had been read is answered", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    if refused and rank == 0:
        sys.exit(REFUSED.format(refused))


def _on_ray(options: Namespace, sampling: Sampling) -> int:
    """Run the job and print what was written; returns how many texts were refused."""
    from ..entities import NerError
    from ..inference.ray import predict_files

    if options.text or not options.files or STDIN in options.files:
        raise NerError("ray reads files", place="--engine ray", remedy="give files, folders or URLs")
    if not options.output:
        raise NerError("ray writes to a folder", place="--engine ray", remedy="name one with --output")
    if options.format == "cluener":
        raise NerError("ray keeps no order, which a submission needs", place="--format", remedy="leave --engine out")
    given = pick(options, "address", "revision", "dtype", "replicas", "thresholds", "batch_tokens") | asdict(sampling)
    given |= {"form": options.format, "min_score": sampling.floor(options.min_score)}
    rows, refused = predict_files(options.model, options.files, str(options.output), **given)
    print(f"{options.output} holds {rows:,} texts", file=sys.stderr)
    return refused


def _engine(given: str) -> str:
    """What a record calls it: a server by its model alone, as its address may change while the job is interrupted."""
    _address, sign, model = given.partition("#")
    return f"http{sign}{model}" if "://" in given else given


def _place(given: str) -> Path | str:
    """A path, or a URL as it is."""
    return given if "://" in given else Path(given)


def _check(options: Namespace, names: list[str]) -> None:
    """Raise `NerError` for options and files that do not go together, before the model is loaded."""
    from ..data.formats.foreign import tables
    from ..entities import NerError

    for option, value in (("--address", options.address), ("--replicas", options.replicas)):
        if value is not None:
            raise NerError("is for Ray", value=value, place=option, remedy="add --engine ray, or leave it out")
    if options.format == "parquet" or isinstance(options.output, str):
        remedy = "add --engine ray, or write JSON to a file"
        raise NerError("only ray writes Parquet, or to a URL", place=options.output, remedy=remedy)
    if (path := options.output) and path.suffix in tables.SUFFIXES:
        remedy = f"name a .jsonl, then `qwen-ner convert {path.stem}.jsonl {path.name}`"
        raise NerError("predictions are lines of JSON, not a table", place=path, remedy=remedy)
    if options.text and options.files:
        raise NerError("give either --text or files, not both", remedy="leave one of them out")
    if options.format == "cluener" and (len(names) != 1 or not os.path.isfile(names[0])):
        raise NerError("a submission is made from one file", value=names, remedy="give test.json alone")
    check_files(names, options.output)


def check_files(names: list[str], output: Path | None) -> None:
    """Raise `NerError` for files of texts that cannot be read, and an output that cannot be written."""
    from ..data.datasets import read_texts
    from ..data.formats.lines import lines_of
    from ..entities import NerError

    if len({os.path.realpath(name) for name in names}) < len(names):
        raise NerError("a file is given twice", value=names, remedy="give each once")
    if output and os.path.realpath(output) in map(os.path.realpath, names):
        raise NerError("is the input itself", place=output, remedy="choose another --output")
    if STDIN in names and sys.stdin is None:
        raise NerError("standard input is closed", remedy="give files or --text")
    for name in names:
        if name != STDIN and not _may_pause(name):
            next(read_texts(lines_of(name), name), None)
    if output and not (output.exists() and _may_pause(str(output))):
        check_writable(output)


def _may_pause(name: str) -> bool:
    """Whether it is a pipe or a device, such as a terminal."""
    try:
        mode = (os.fstat(sys.stdin.fileno()) if name == STDIN else os.stat(name)).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _join_group(*, live: bool) -> tuple[int, int, str | None]:
    """(rank, ranks, device) under accelerate, or (0, 1, None). Raises `NerError` where ranks cannot share the work."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return 0, 1, None
    import torch
    import torch.distributed.nn.functional  # before there is a group: its defaults would keep the group alive
    from accelerate import PartialState

    from ..entities import NerError

    if live:
        raise NerError("several processes cannot share a pipe", remedy="give files")
    state = PartialState(cpu=not torch.cuda.is_available())  # else each process on a CPU believes that it is alone
    return state.process_index, state.num_processes, str(state.device)


def texts_of(names: list[str], given: list[str] | None = None) -> Iterator[TextRow]:
    """The rows of files, of which `STDIN` is standard input, and of the sentences `given` on the command line."""
    from ..data.datasets import given_texts, read_texts
    from ..data.formats.lines import lines_of

    yield from given_texts(given or (), "--text")
    for name in names:
        rows = read_texts(_standard_input(), "standard input") if name == STDIN else read_texts(lines_of(name), name)
        for row in rows:
            yield replace(row, id=f"{name}:{row.id}") if len(names) > 1 else row


def _standard_input() -> Iterable[bytes]:
    """Its lines, by a file of their own: that of `sys.stdin` may not be in use by a thread when Python ends."""
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except (OSError, ValueError):
        return sys.stdin.buffer
