"""What each command of `qwen-ner` does. Each imports what it needs when it runs.

In: parsed arguments, and those left over where a command takes any. Out: what is printed and written.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.datasets import TextRow


def train(options: Namespace, overrides: Sequence[str]) -> None:
    from ..training.batches.cpu.malloc import set_pages

    set_pages()
    from ..training.recipe import load_recipe
    from ..training.run import train as run

    run(load_recipe(options.recipe, overrides))


def doctor(options: Namespace, overrides: Sequence[str]) -> None:
    from ..training.doctor.report import doctor as examine

    sys.exit(1 if examine(options.recipe, overrides, options.accelerate_config) else 0)


def sweep(options: Namespace, _: Sequence[str]) -> None:
    from ..sweep.run import sweep as run

    run(options.sweep, local=options.local, trials=options.trials, jobs=options.jobs, output=options.output)


def evaluate(options: Namespace, _: Sequence[str]) -> None:
    from ..evaluation.report import write_report
    from ..files import write_json
    from ..hub.card import history
    from ..inference.evaluate import evaluate as evaluations

    log = history(Path(options.model))
    both = options.decoding == "both" and not Path(options.model).is_file()
    result: dict[str, Any] = {"model": options.model, "data": options.data, "split": options.split}
    for evaluated in evaluations(
        options.model,
        options.data,
        options.split,
        revision=options.revision,
        data_dir=options.data_dir,
        limit=options.limit,
        decodings=("free", "constrained") if options.decoding == "both" else (options.decoding,),
        min_score=options.min_score,
        thresholds=options.thresholds,
        batch_tokens=options.batch_tokens,
        negatives=options.negatives,
    ):
        decoding = evaluated.contract.decoding
        print(evaluated.table(), flush=True)
        result[decoding] = evaluated.to_dict()
        if options.report:
            folder = options.report / decoding if both else options.report
            write_report(evaluated, folder, history=log)
            print(f"report: {folder / 'report.html'}")
    if options.json:
        write_json(options.json, result)


def compare(options: Namespace, _: Sequence[str]) -> None:
    from ..inference.compare import compare as compared

    print(compared(options.a, options.b, data=options.data, split=options.split, data_dir=options.data_dir))


def predict(options: Namespace, _: Sequence[str]) -> None:
    from ..entities import NerError
    from ..inference.batch_predict import stream
    from ..inference.extractor import Extractor

    if options.text and options.files:
        raise NerError("give --text or files, not both")
    rank, ranks, device = 0, int(os.environ.get("WORLD_SIZE", "1")), None
    if ranks > 1:
        import torch
        import torch.distributed.nn.functional  # its defaults hold a group that stands already, beyond the group's end
        from accelerate import PartialState

        if not options.text and (not options.files or "-" in options.files):
            raise NerError("standard input cannot be read by several processes; give files")
        state = PartialState(cpu=not torch.cuda.is_available())  # else each process on a CPU believes that it is alone
        if state.num_processes != ranks:
            raise NerError(
                f"WORLD_SIZE is {ranks}, but accelerate sees {state.num_processes} processes; check its config"
            )
        rank, ranks, device = state.process_index, state.num_processes, str(state.device)
    extractor = Extractor.from_pretrained(options.model, revision=options.revision, device=device)
    refused = stream(
        extractor,
        _text_rows(options),
        options.output or sys.stdout,
        rank=rank,
        ranks=ranks,
        submission=options.format == "cluener",
        min_score=options.min_score,
        thresholds=options.thresholds,
        batch_tokens=options.batch_tokens,
    )
    if refused and rank == 0:
        sys.exit(f'error: {refused} texts were refused; each has its line in the output, with the reason under "error"')


def serve(options: Namespace, _: Sequence[str]) -> None:
    from ..entities import NerError

    try:
        from ..serving.run import serve as run
        from ..serving.schemas import Limits
    except ImportError as error:
        raise NerError(f'{error.name} is not installed, which serving needs: pip install "qwen_ner[serve]"') from error
    given = {name: getattr(options, name) for name in Limits.__dataclass_fields__}
    run(
        options.model,
        revision=options.revision,
        host=options.host,
        port=options.port,
        token_file=options.token_file,
        limits=Limits(**given),
    )


def push(options: Namespace, _: Sequence[str]) -> None:
    from ..hub.push import push as run

    print(f"pushed: {run(options.folder, options.repo_id, private=options.private, merge=options.merge)}")


def export(options: Namespace, _: Sequence[str]) -> None:
    from ..hub.push import export as run

    run(options.folder, options.out, dtype=options.dtype)
    print(f"exported: {options.out}")


def convert(options: Namespace, _: Sequence[str]) -> None:
    from ..data.convert import convert as run

    run(
        options.source,
        options.target,
        to=options.to,
        split=options.split,
        lossy=options.lossy,
        repair=options.repair,
    )


def stats(options: Namespace, _: Sequence[str]) -> None:
    from ..codec import Codec
    from ..contract import NER_CONFIG_NAME, NerConfig
    from ..data.analysis.stats import statistics
    from ..data.analysis.stats_plots import draw
    from ..data.analysis.stats_table import table
    from ..data.datasets import labels_of, read_all
    from ..data.tokenize import token_counts
    from ..files import write_json
    from ..inference.loading import load_tokenizer
    from ..training.tiny import tiny_tokenizer

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


def audit(options: Namespace, _: Sequence[str]) -> None:
    from collections import Counter

    from ..data.analysis.audit import audit as findings_of
    from ..data.analysis.disagreement import predictions_by_text
    from ..data.analysis.findings import write_findings
    from ..data.datasets import read_dataset

    examples = read_dataset(options.data, options.split, data_dir=options.data_dir)
    findings = findings_of(examples, [predictions_by_text(file, examples) for file in options.predictions])
    told = findings[: options.limit]
    if options.output:
        write_findings(options.output, told)
    else:
        print("".join(f"{finding}\n" for finding in told), end="")
    kinds = Counter(finding.kind for finding in findings)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    print(f"{len(findings):,} findings in {len(examples):,} rows{': ' + counts if counts else ''}", file=sys.stderr)


def _text_rows(options: Namespace) -> Iterator[TextRow]:
    from ..data.datasets import read_texts

    if options.text:
        yield from read_texts((text.encode() for text in options.text), "--text")
        return
    for name in options.files or ["-"]:
        if name == "-":
            yield from read_texts(sys.stdin.buffer, "standard input")
        else:
            with open(name, "rb") as lines:
                yield from read_texts(lines, name)
