"""`qwen-ner`: train, evaluate, predict, stats, audit. Each command imports what it needs when it runs.

In: the command line. Out: exit code 0, or 1 with a message that says what to do, or 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.formats import TextRow


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
    _how_to_extract(command)
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
    _how_to_extract(command)
    command.set_defaults(command=predict)

    command = commands.add_parser(
        "stats",
        help="what a data set holds",
        description="Entities, lengths, what a length limit would cost, duplicates, surfaces with several labels.",
    )
    command.add_argument("--data", required=True, help="cluener, sample, or a file or folder of JSONL")
    command.add_argument("--data-dir", type=Path, help="CLUENER's folder or zip")
    command.add_argument(
        "--model", default="tiny", help="whose tokenizer counts: a folder, a Hub id, or tiny (default)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write everything that was counted there")
    command.add_argument("--plots", type=Path, metavar="DIR", help="draw labels, lengths and limits there")
    command.set_defaults(command=stats)

    command = commands.add_parser(
        "audit",
        help="likely annotation faults, the likeliest first",
        description="Places that are annotated otherwise than most comparable ones of the same split.",
    )
    command.add_argument("--data", required=True, help="cluener, sample, or a file or folder of JSONL")
    command.add_argument("--split", default="train", help="default: train")
    command.add_argument("--data-dir", type=Path, help="CLUENER's folder or zip")
    command.add_argument(
        "--predictions",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="what `qwen-ner predict` wrote for these texts; once a model, each trained on other rows",
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="write them there, one JSON object a line")
    command.add_argument("--limit", type=int, metavar="N", help="the first N only")
    command.set_defaults(command=audit)
    return parser


def _how_to_extract(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--min-score", type=float, default=0.0, help="leave out entities of less confidence; default: 0"
    )
    command.add_argument(
        "--thresholds",
        choices=("none", "auto"),
        default="none",
        help="auto: leave out what is below its label's threshold of the calibration; default: none",
    )
    command.add_argument(
        "--batch-tokens", type=int, default=16384, help="tokens of a batch; lower it if memory is short; default: 16384"
    )


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
            texts,
            constrained=decoding == "constrained",
            min_score=options.min_score,
            thresholds=options.thresholds,
            batch_tokens=options.batch_tokens,
            progress=True,
        )
        scores = score(examples, decoded, labels, train=seen)
        print(table(scores, title=f"{options.model} on {options.data} {options.split}, {decoding}"))
        result[decoding] = scores.to_dict()
        if decoding == "constrained":
            result[decoding]["confidence"] = summary(extractor.judged(examples, decoded))
            print(confidence_line(result[decoding]["confidence"]))
    if options.json:
        write_json(options.json, result)


def predict(options: argparse.Namespace, _: Sequence[str]) -> None:
    from .entities import NerError
    from .inference.extractor import Extractor
    from .inference.stream import stream

    if options.text and options.files:
        _parser().error("give --text or files, not both")
    rank, ranks, device = 0, int(os.environ.get("WORLD_SIZE", "1")), None
    if ranks > 1:
        import torch
        from accelerate import PartialState

        if not options.text and (not options.files or "-" in options.files):
            raise NerError("standard input cannot be read by several processes; give files")
        state = PartialState(cpu=not torch.cuda.is_available())  # else each process on a CPU believes that it is alone
        if state.num_processes != ranks:
            raise NerError(
                f"WORLD_SIZE is {ranks}, but accelerate sees {state.num_processes} processes; check its config"
            )
        rank, ranks, device = state.process_index, state.num_processes, str(state.device)
    extractor = Extractor.from_pretrained(options.model, device=device)
    refused = stream(
        extractor,
        _text_rows(options),
        options.output or sys.stdout,
        rank=rank,
        ranks=ranks,
        min_score=options.min_score,
        thresholds=options.thresholds,
        batch_tokens=options.batch_tokens,
    )
    if refused and rank == 0:
        sys.exit(f'error: {refused} texts were refused; each has its line in the output, with the reason under "error"')


def stats(options: argparse.Namespace, _: Sequence[str]) -> None:
    from .codec import Codec
    from .contract import NER_CONFIG_NAME, NerConfig, write_json
    from .data.formats import labels_of, read_all
    from .data.stats import statistics
    from .data.stats_plots import draw
    from .data.stats_table import table
    from .data.tokenize import token_counts
    from .inference.extractor import load_tokenizer
    from .training.tiny import tiny_tokenizer

    splits = read_all(options.data, data_dir=options.data_dir)
    trained = (Path(options.model) / NER_CONFIG_NAME).is_file()
    labels = labels_of(example for examples in splits.values() for example in examples)
    codec = NerConfig.load(options.model).codec() if trained else Codec(labels)
    tokenizer = tiny_tokenizer() if options.model == "tiny" else load_tokenizer(options.model)
    tokens = {split: token_counts(examples, codec, tokenizer) for split, examples in splits.items()}
    counted = statistics(splits, tokens)
    name = Path(options.model).name
    print(table(counted, options.data, name))
    if options.json:
        write_json(options.json, {"data": options.data, "model": options.model, **counted.to_dict()})
    if options.plots:
        print("\n" + "\n".join(map(str, draw(counted, options.plots, name))))


def audit(options: argparse.Namespace, _: Sequence[str]) -> None:
    from collections import Counter

    from .data.audit import audit as findings_of
    from .data.disagreement import read_predictions
    from .data.findings import write_findings
    from .data.formats import read_dataset

    examples = read_dataset(options.data, options.split, data_dir=options.data_dir)
    findings = findings_of(examples, [read_predictions(file, examples) for file in options.predictions])
    told = findings[: options.limit]
    if options.output:
        write_findings(options.output, told)
    else:
        print("".join(f"{finding}\n" for finding in told), end="")
    kinds = Counter(finding.kind for finding in findings)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    print(f"{len(findings):,} findings in {len(examples):,} rows{': ' + counts if counts else ''}", file=sys.stderr)


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


if __name__ == "__main__":
    main()
