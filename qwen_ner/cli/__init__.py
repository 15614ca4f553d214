"""`qwen-ner`: the command line, and how a command ends.

In: the arguments. Out: exit code 0, or 1 with a message that says what to do, or 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import commands


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit. Called by `qwen-ner`, `python -m qwen_ner`, and a recipe that is itself launched."""
    if argv is None:
        argv = sys.argv[1:]
        if Path(sys.argv[0]).suffix in (".yaml", ".yml"):  # `accelerate launch recipes/X.yaml`
            argv = ["train", *sys.argv]
    options, rest = _parser().parse_known_args(argv)
    if rest and options.command not in (commands.train, commands.doctor):
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(format="%(message)s", level=logging.INFO if rank == 0 else logging.ERROR)
    for noisy in ("httpx", "datasets", "evaluate", "filelock", "fsspec", "torch", "accelerate", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not sys.stderr.isatty():  # read by the libraries at import: no bars in log files
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from ..entities import NerError

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
    finally:
        _leave_group()


def _leave_group() -> None:
    """End the process group of this process: a thread of gloo's that lives on may abort the interpreter at its end.

    A model under DDP holds the group, so a trainer, which is a cycle of references, is collected first.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qwen-ner", description="Fine-tune a small Qwen to write the entities of a text."
    )
    subparsers = parser.add_subparsers(required=True, metavar="command")

    command = subparsers.add_parser(
        "train",
        help="train from a recipe",
        description="Train what a recipe says. `--key value` behind it overrides any of its keys.",
        epilog="On several GPUs: accelerate launch --config_file accelerate_configs/ddp_4gpu.yaml recipes/lora.yaml",
    )
    command.add_argument("recipe", type=Path, help="a YAML file; the shipped ones are in recipes/")
    command.set_defaults(command=commands.train)

    command = subparsers.add_parser(
        "doctor",
        help="check a recipe, its data and this machine before a training",
        description="A line a check: ok, warn or fail, with its remedy; exit code 1 on a fail. `--key value` as train.",
    )
    command.add_argument("recipe", type=Path, help="a YAML file; the shipped ones are in recipes/")
    command.add_argument(
        "--accelerate_config", type=Path, metavar="FILE", help="what `accelerate launch --config_file` will be given"
    )
    command.set_defaults(command=commands.doctor)

    command = subparsers.add_parser(
        "sweep",
        help="search a recipe's keys, without an account",
        description="Checks the file that `wandb sweep` takes; with --local runs it too, searched by Optuna. The same "
        "command goes on with a sweep that was interrupted.",
    )
    command.add_argument("sweep", type=Path, help="a sweep file, such as recipes/sweep.yaml")
    command.add_argument("--local", action="store_true", help="run it here, without wandb")
    command.add_argument("--trials", type=int, metavar="N", help="how many in all; default: the file's run_cap")
    command.add_argument("--jobs", type=int, default=1, metavar="K", help="trials at a time, on the same devices")
    command.add_argument("--output", type=Path, metavar="DIR", help="default: outputs/ and the name of the file")
    command.set_defaults(command=commands.sweep)

    command = subparsers.add_parser("evaluate", help="score a trained model, or its predictions, on a data set")
    command.add_argument("model", help="an output_dir, a checkpoint, a Hub id, or a file of predictions")
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
    command.add_argument(
        "--negatives",
        action="store_true",
        help="read clauses without entities too, cut out of the rows: false positives in 1,000 of them",
    )
    command.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write report.html, metrics.json, errors.jsonl and predictions.jsonl there; under free and constrained "
        "where both are scored",
    )
    command.set_defaults(command=commands.evaluate)

    command = subparsers.add_parser(
        "compare",
        help="is one set of predictions better than another?",
        description="Paired bootstrap and permutation test, and the rows that changed. Several predictions of one side "
        "(quote the pattern) are its runs over seeds: mean ± standard deviation.",
    )
    for side in ("a", "b"):
        command.add_argument(side, help="a predictions.jsonl, a folder that holds one, or a pattern of these")
    command.add_argument("--data", help="what they are scored by, where the files do not hold it themselves")
    command.add_argument("--split", default="dev", help="default: dev")
    command.add_argument("--data-dir", type=Path, help="CLUENER's folder or zip")
    command.set_defaults(command=commands.compare)

    command = subparsers.add_parser(
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
        "--format",
        choices=("json", "cluener"),
        default="json",
        help="cluener: CLUENER's submission, for its test.json; default: json",
    )
    _how_to_extract(command)
    command.set_defaults(command=commands.predict)

    command = subparsers.add_parser(
        "serve",
        help="answer over HTTP, with a page to try it on",
        description="POST /v1/extract, GET /v1/model, /healthz, /readyz, /metrics. SIGTERM: what was accepted is "
        "answered, then it ends. QWEN_NER_TOKEN or --token-file: only for those who bring the token.",
    )
    command.add_argument("model", help="an output_dir, a checkpoint, or a Hub id")
    command.add_argument("--revision", metavar="R", help="branch, tag or commit of a model on the Hub")
    command.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, reached from this machine alone")
    command.add_argument("--port", type=int, default=8000, help="default: 8000")
    command.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that a client must bring")
    for flag, kind, default, metavar, what in (
        ("--max-texts", int, 1000, "N", "texts of a request"),
        ("--max-characters", int, 100_000, "N", "characters of a request's texts"),
        ("--max-waiting", int, 1_000_000, "N", "tokens that wait to be read; what comes then hears 429"),
        ("--batch-tokens", int, 16384, "N", "tokens of a batch; lower it if memory or latency is short"),
        (
            "--max-wait",
            float,
            0.01,
            "S",
            "seconds that the model waits for requests to come together, or a fiftieth of its last batch's",
        ),
        ("--deadline", float, 120.0, "S", "seconds in which a request is answered, or hears 504"),
    ):
        command.add_argument(flag, type=kind, default=default, metavar=metavar, help=f"{what}; default: {default}")
    command.set_defaults(command=commands.serve)

    command = subparsers.add_parser(
        "push",
        help="put a trained model and its card on the Hub",
        description="Weights as safetensors, tokenizer, ner_config.json, card, recipe and scores, as one commit; no "
        "pickle, token, path or row of the data. Log in first: `hf auth login`, or HF_TOKEN.",
    )
    command.add_argument("folder", help="an output_dir, or a checkpoint in it")
    command.add_argument("repo_id", metavar="REPO_ID", help="user/name; made if need be")
    command.add_argument("--private", action="store_true", help="make it private; refuse one that is public")
    command.add_argument("--merge", action="store_true", help="push an adapter merged into its base")
    command.set_defaults(command=commands.push)

    command = subparsers.add_parser("export", help="write a model that transformers alone can run")
    command.add_argument("folder", help="an output_dir, a checkpoint in it, or a Hub id")
    command.add_argument("out", metavar="OUT", type=Path, help="the folder to write; it must not be there")
    command.add_argument("--merge", action="store_true", required=True, help="an adapter into its base")
    command.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="default: float32, as scored"
    )
    command.set_defaults(command=commands.export)

    command = subparsers.add_parser(
        "convert",
        help="write annotated data in another format",
        description="Reads JSONL, CLUENER, tagged lines (BIO2, IOB1, BIOS, BIOES, BMES, BILOU), doccano, Label Studio "
        "and Hugging Face data sets; the format is told by the content, and said. Nothing is left out unsaid.",
    )
    command.add_argument(
        "source", metavar="IN", help="a file, a folder of splits, cluener, sample, or an id on the Hub"
    )
    command.add_argument("target", metavar="OUT", help="the file to write; .jsonl, .json, .bio, .bmes, .parquet, …")
    command.add_argument("--to", metavar="FORMAT", help="OUT's format, where its name does not say it")
    command.add_argument("--split", help="which split of a folder or data set")
    command.add_argument("--lossy", action="store_true", help="leave out what OUT's format cannot hold, and list it")
    command.add_argument("--repair", action="store_true", help="read tags that are out of order, and list them")
    command.set_defaults(command=commands.convert)

    command = subparsers.add_parser(
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
    command.set_defaults(command=commands.stats)

    command = subparsers.add_parser(
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
    command.set_defaults(command=commands.audit)
    return parser


def _how_to_extract(command: argparse.ArgumentParser) -> None:
    command.add_argument("--revision", metavar="R", help="branch, tag or commit of a model on the Hub")
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


if __name__ == "__main__":
    main()
