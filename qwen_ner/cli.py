"""`qwen-ner`: train, evaluate, predict. Each command imports what it needs when it runs.

In: the command line. Out: exit code 0, or 1 with a message that says what to do, or 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.formats import TextRow
    from .inference.extractor import Extractor


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit. Called by `qwen-ner`, `python -m qwen_ner`, and a recipe that is itself launched."""
    if argv is None:
        argv = sys.argv[1:]
        if Path(sys.argv[0]).suffix in (".yaml", ".yml"):  # `accelerate launch recipes/X.yaml`
            argv = ["train", *sys.argv]
    options, rest = _parser().parse_known_args(argv)
    if rest and options.command is not train:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(format="%(message)s", level=logging.INFO if rank == 0 else logging.ERROR)
    for noisy in ("httpx", "datasets", "evaluate", "filelock", "fsspec", "torch", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not sys.stderr.isatty():  # read by the libraries at import: no bars in log files
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from .entities import NerError

    try:
        options.command(options, rest)
    except NerError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        sys.exit(f"error: {error.strerror or error}{place}; free space or choose another place")
    except KeyboardInterrupt as error:
        print(f"interrupted {error}".strip(), file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qwen-ner", description="Fine-tune a small Qwen to write the entities of a text."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser(
        "train",
        help="train from a recipe",
        description="Train what a recipe says. `--key value` behind it overrides any of its keys.",
        epilog="On several GPUs: accelerate launch --config_file accelerate_configs/ddp_4gpu.yaml recipes/lora.yaml",
    )
    command.add_argument("recipe", type=Path, help="a YAML file; the shipped ones are in recipes/")
    command.set_defaults(command=train)

    command = commands.add_parser("evaluate", help="score a trained model on a data set")
    command.add_argument("model", help="an output_dir, a checkpoint, or a Hub id")
    command.add_argument("--data", required=True, help="cluener, sample, or a file or folder of JSONL")
    command.add_argument("--split", default="dev", help="default: dev")
    command.add_argument("--data-dir", type=Path, help="CLUENER's folder or zip")
    command.add_argument("--limit", type=int, help="score the first N rows only")
    command.add_argument(
        "--batch-tokens", type=int, default=16384, help="tokens of a batch; lower it if memory is short; default: 16384"
    )
    command.add_argument(
        "--decoding",
        choices=("both", "free", "constrained"),
        default="both",
        help="free: as training scores it; constrained: under the grammar, as predict writes; default: both",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the scores there as well")
    command.set_defaults(command=evaluate)

    command = commands.add_parser(
        "predict",
        help="extract entities from texts",
        description="One JSON object a line: id, text, entities with half-open character offsets, problems if any.",
    )
    command.add_argument("model", help="an output_dir, a checkpoint, or a Hub id")
    command.add_argument(
        "files", nargs="*", help='lines of text, or JSONL with a "text"; default or "-": standard input'
    )
    command.add_argument("--text", action="append", help="a sentence; may be given several times")
    command.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    command.add_argument(
        "--batch-tokens", type=int, default=16384, help="tokens of a batch; lower it if memory is short; default: 16384"
    )
    command.set_defaults(command=predict)
    return parser


def train(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from .training.recipe import load_recipe
    from .training.run import train as run

    run(load_recipe(options.recipe, overrides))


def evaluate(options: argparse.Namespace, _: Sequence[str]) -> None:
    from .contract import write_json
    from .data.formats import has_split, read_dataset
    from .entities import NerError
    from .evaluation.scoring import score
    from .evaluation.table import confidence_line, table
    from .inference.calibration import summary
    from .inference.extractor import Extractor

    extractor = Extractor.from_pretrained(options.model)
    labels = extractor.config.labels
    read = {"labels": labels, "data_dir": options.data_dir}
    examples = read_dataset(options.data, options.split, **read)[: options.limit]
    if not any(example.entities for example in examples):
        raise NerError(
            f"{options.data} {options.split} holds no entity to score; `qwen-ner predict` reads unlabelled texts"
        )
    seen = None
    if options.split != "train" and has_split(options.data, "train", options.data_dir):
        seen = {pair for example in read_dataset(options.data, "train", **read) for pair in example.surfaces}
    texts = [example.text for example in examples]
    result: dict[str, Any] = {"model": options.model, "data": options.data, "split": options.split}
    for decoding in ("free", "constrained") if options.decoding == "both" else (options.decoding,):
        decoded = extractor.predict(
            texts, constrained=decoding == "constrained", batch_tokens=options.batch_tokens, progress=True
        )
        scores = score(examples, decoded, labels, train=seen)
        print(table(scores, title=f"{options.model} on {options.data} {options.split}, {decoding}"))
        result[decoding] = {
            **scores.to_dict(),
            "confidence": (confidence := summary(extractor.judged(examples, decoded))),
        }
        print(confidence_line(confidence))
    if options.json:
        write_json(options.json, result)


def predict(options: argparse.Namespace, _: Sequence[str]) -> None:
    from tqdm.auto import tqdm

    from .inference.extractor import Extractor

    if options.text and options.files:
        _parser().error("give --text or files, not both")
    extractor = Extractor.from_pretrained(options.model)
    refused = 0
    with ExitStack() as stack:
        rows = _text_rows(options)
        out = stack.enter_context(options.output.open("w", encoding="utf-8")) if options.output else sys.stdout
        bar = stack.enter_context(tqdm(desc="Extracting", unit="text", disable=None))
        # Sorting by length saves padding within a chunk; a chunk bounds the memory and how long a line waits.
        while chunk := list(islice(rows, 512)):
            for line in _extract(extractor, chunk, options.batch_tokens):
                refused += "error" in line
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
            out.flush()
            bar.update(len(chunk))
    if refused:
        sys.exit(f'error: {refused} texts were refused; each has its line in the output, with the reason under "error"')


def _text_rows(options: argparse.Namespace) -> Iterator[TextRow]:
    from .data.formats import read_texts

    if options.text:
        yield from read_texts((text.encode() for text in options.text), "--text")
        return
    for name in options.files or ["-"]:
        if name == "-":
            yield from read_texts(sys.stdin.buffer, "standard input")
        else:
            with open(name, "rb") as lines:
                yield from read_texts(lines, name)


def _extract(extractor: Extractor, rows: Sequence[TextRow], batch_tokens: int) -> Iterator[dict[str, Any]]:
    """One output line a row, in order; a row that cannot be read or does not fit becomes a line with `error`."""
    from .inference.extractor import TextTooLong

    faults = {i: row.fault for i, row in enumerate(rows) if row.fault is not None}
    texts = [row.text or "" for row in rows]
    try:
        decoded = extractor.predict(texts, batch_tokens=batch_tokens)
    except TextTooLong as error:
        faults |= {i: f"{rows[i].source}: {fault}" for i, fault in error.faults.items()}
        decoded = extractor.predict(
            ["" if i in faults else text for i, text in enumerate(texts)], batch_tokens=batch_tokens
        )
    for i, (row, found) in enumerate(zip(rows, decoded, strict=True)):
        if i in faults:
            yield {"id": row.id, "error": faults[i]}
            continue
        entities = [
            {"label": e.label, "text": e.text, "start": e.start, "end": e.end}
            | ({} if e.score is None else {"score": round(e.score, 4)})
            for e in found.entities
        ]
        line: dict[str, Any] = {"id": row.id, "text": row.text, "entities": entities}
        if found.problems:
            line["problems"] = [{"kind": p.kind, "label": p.label, "value": p.value} for p in found.problems]
        yield line


if __name__ == "__main__":
    main()
