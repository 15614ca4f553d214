"""What can be known of a training before it is paid for: a finding for each of `CHECKS`.

In: a `Case`. Out: findings, in the order of `CHECKS`. The rules stand in checks.py, costs.py, machine.py and launch.py;
here each is given what it asks for. Loads no weights. Knows nothing of terminals.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from transformers import GenerationConfig
from transformers.utils import cached_file

from ...contract import NerConfig
from ...data.tokenize import column, longest_first, prompt_ids
from ...entities import Example, NerError
from ...inference.backends.torch import neutral_generation_config
from ...inference.loading import load_tokenizer
from ..batches.collate import PaddedCollator, PrefixSharedCollator, not_shareable
from ..batches.reduced_head import tokens_of
from ..finding import Finding
from ..launch import check_launch
from ..plan import Case, Unavailable
from . import checks, costs, machine

if TYPE_CHECKING:
    from datasets import Dataset

COMPARED = 32
"""Rows whose prompts are made again as inference makes them, spread over the training rows."""


def _data(case: Case) -> Finding:
    splits = case.splits
    parts = {"train": splits.train, "validation": splits.validation, "dev": splits.final}
    counted = " · ".join(f"{name} {len(examples):,}" for name, examples in parts.items() if examples)
    entities = sum(len(example.entities) for example in splits.train)
    return Finding("ok", "data", f"{case.recipe.data.dataset}: {counted} rows; {entities:,} entities to train on")


def _labels(case: Case) -> Finding:
    return checks.check_labels(case.splits.labels, case.splits.train)


def _tokenizer(case: Case) -> Finding:
    tokens, room = len(case.tokenizer), case.model.config.get_text_config().vocab_size
    if tokens > room:
        found = f"the tokenizer has {tokens:,} tokens, the model room for {room:,}: ids beyond them have no embedding"
        return Finding("fail", "tokenizer", found, "take the tokenizer that belongs to the model")
    return Finding("ok", "tokenizer", f"{tokens:,} tokens, of {room:,} that the model has room for")


def _model(case: Case) -> Finding:
    model = case.model
    every, trained = costs.parameters(model)
    kind = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
    found = f"{kind}, {every / 1e6:,.1f} million parameters, {trained / 1e6:,.1f} million of them trained"
    name, revision = case.recipe.model.model_name_or_path, case.recipe.model.model_revision
    if name == "tiny" or _has_weights(case.base, revision):
        return Finding("ok", "model", found)
    if Path(name).is_dir():
        return Finding("warn", "model", f"{found}; {name} holds no weights", "put model.safetensors beside config.json")
    remedy = f"have them downloaded before GPUs wait for them: hf download {name}"
    return Finding("warn", "model", f"{found}; the weights are not in the cache", remedy)


def _has_weights(name: str, revision: str | None) -> bool:
    """Whether they lie in the folder of that name, or in the Hub's cache. Downloads nothing."""
    options: dict[str, Any] = {"revision": revision, "local_files_only": True}
    missing_is_none = {
        f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")
    }
    names = ("model.safetensors", "model.safetensors.index.json")
    return any(cached_file(name, file, **options, **missing_is_none) for file in names)


def _batches(case: Case) -> Finding:
    reason = not_shareable(case.model)
    if reason:
        return Finding("ok", "batches", f"padded, without prefix sharing: {reason}")
    return Finding("ok", "batches", "packed, with what all prompts begin with once")


def _pad(case: Case) -> Finding:
    return checks.check_pad(case.tokenizer, case.stops)


def _end(case: Case) -> Finding:
    learned = checks.learned(PaddedCollator(case.tokenizer.pad_token_id), case.rows[0])
    answers = column(case.rows, "answer_ids")
    return checks.check_end(case.tokenizer, answers, learned, case.stops, _sources(case.splits.train))


def _prompt(case: Case) -> Finding:
    """Against what the folder of the trained model will make of the same texts: written and read again."""
    with tempfile.TemporaryDirectory(dir=case.folder) as folder:
        case.tokenizer.save_pretrained(folder)
        case.config.save(folder)
        tokenizer, codec = load_tokenizer(folder), NerConfig.load(folder).codec()
    every = max(1, len(case.rows) // COMPARED)
    some = case.rows.select(range(0, len(case.rows), every))
    texts = [case.splits.train[row].text for row in some["row"]]
    return checks.check_prompts(some["prompt_ids"], prompt_ids(tokenizer, codec, texts), texts, tokenizer)


def _supervised(case: Case) -> Finding:
    return checks.check_supervised(_lengths(case.rows), _sources(case.splits.train))


def _rows(case: Case) -> Finding:
    return checks.check_rows(case.splits.train, list(column(case.rows, "length")), case.max_length)


def _answers(case: Case) -> Finding:
    lengths = _lengths(case.rows) + _lengths(case.to_score)
    sources = _sources(case.splits.train, case.gold)
    return checks.check_answers(lengths, case.recipe.training.max_new_tokens, sources)


def _lengths(rows: Dataset) -> list[int]:
    """Of the answers, in tokens."""
    return [len(ids) for ids in column(rows, "answer_ids")]


def _sources(*parts: Sequence[Example]) -> Callable[[int], str]:
    """Where the n-th example of `parts`, one behind the other, was read from."""

    def source_of(n: int) -> str:
        for part in parts:
            if n < len(part):
                return part[n].source
            n -= len(part)
        raise IndexError(n)

    return source_of


def _room(case: Case) -> Finding:
    room = case.context - case.recipe.training.max_new_tokens
    return checks.check_room(list(map(len, case.to_score["prompt_ids"])), room, [e.source for e in case.gold])


def _generation(case: Case) -> Finding:
    """The base's own, and the one that training writes, as another tool would read it."""
    pad, limit = case.tokenizer.pad_token_id, case.recipe.training.max_new_tokens
    with tempfile.TemporaryDirectory(dir=case.folder) as folder:
        neutral_generation_config(case.stops, pad, limit).save_pretrained(folder)
        shipped = GenerationConfig.from_pretrained(folder).to_dict()
    try:
        base = GenerationConfig.from_pretrained(case.base, revision=case.recipe.model.model_revision).to_dict()
    except (OSError, ValueError):
        base = {}
    return checks.check_generation(base, shipped, case.stops)


def _leakage(split: str) -> Callable[[Case], Finding]:
    def check(case: Case) -> Finding:
        held_out = case.splits.validation if split == "validation" else case.splits.final
        return checks.check_leakage(case.splits.train, held_out, split)

    return check


def _fitting(case: Case) -> Dataset:
    lengths = list(case.rows["length"])
    return case.rows.select([i for i, length in enumerate(lengths) if length <= case.max_length])


def _steps(case: Case) -> Finding:
    args, rows = case.recipe.training, _fitting(case)
    batch, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    total, an_epoch = costs.steps(
        len(rows), batch, accumulation, case.processes, args.num_train_epochs, args.max_steps, args.dataloader_drop_last
    )
    of = f"{batch} rows × {accumulation} accumulated × {case.processes} process{'es'[: 2 * (case.processes > 1)]}"
    lengths, answers = list(rows["length"]), sum(map(len, rows["answer_ids"]))
    tokens = sum(lengths)
    if isinstance(case.collator, PrefixSharedCollator):
        tokens = costs.computed_tokens(rows["prompt_ids"], lengths, batch)
    found = (
        f"{total:,} steps of {of}, {an_epoch:,} an epoch; {tokens:,} tokens to compute an epoch "
        f"({sum(lengths):,} row by row), {answers:,} of them supervised"
    )
    if total < 10:
        remedy = "train longer (num_train_epochs, max_steps), or with fewer rows a step"
        return Finding("warn", "steps", found, f"so few steps teach nothing: {remedy}")
    return Finding("ok", "steps", found)


def _memory(case: Case) -> Finding:
    args = case.recipe.training
    rows = longest_first(_fitting(case))
    largest = [rows[i] for i in range(min(args.per_device_train_batch_size, len(rows)))]
    given, launch = case.recipe.model, case.launch
    model = costs.outline_model(case.base, revision=given.model_revision, lora=given.lora())  # it is used up
    collator = case.collator
    options = {"bf16": case.bf16, "checkpointing": args.activation_checkpointing, "processes": case.processes}
    try:
        expected = costs.expected_memory(model, largest, collator, tokens=tokens_of(rows), **options)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        return Finding(
            "warn", "memory", f"not estimated ({reason})", "watch the first steps, whose batches may be the largest"
        )
    expected = expected.sharded(launch.num_processes, weights=launch.shards_weights, states=launch.shards_states)
    if torch.cuda.is_available() and not case.use_cpu:
        return machine.check_memory(expected, torch.cuda.get_device_properties(0).total_memory, "GPU")
    if case.is_for_gpus:
        return machine.check_memory(expected, None, "GPU")
    return machine.check_memory(expected, psutil.virtual_memory().available // launch.here, "CPU")


def _disk(case: Case) -> Finding:
    every, trained = costs.parameters(case.model)
    return machine.check_disk_of(case.recipe, every, trained, len(case.splits.train), case.processes)


def _processes(case: Case) -> Finding:
    args, gpus = case.recipe.training, torch.cuda.device_count()
    has_bf16 = bool(gpus) and torch.cuda.is_bf16_supported()
    try:
        layers = sorted({type(module).__name__ for module in case.model.modules()})
    except Unavailable:
        layers = []
    return check_launch(
        case.launch,
        gpus=gpus,
        gpu_has_bf16=has_bf16,
        use_cpu=case.use_cpu,
        bf16=args.bf16 and args.use_cpu == case.use_cpu,  # else reading the recipe has said so
        layers=layers,
    )


def _trackers(case: Case) -> Finding:
    return machine.check_trackers(case.recipe.training.report_to, os.environ)


def _hub(case: Case) -> Finding:
    from huggingface_hub import constants, get_token

    args, base = case.recipe.training, case.recipe.model.model_name_or_path
    local = base if case.recipe.model.lora() and (base == "tiny" or Path(base).expanduser().exists()) else None
    return machine.check_hub(args.push_to_hub, args.hub_token or get_token(), constants.HF_HUB_OFFLINE, local)


CHECKS: tuple[tuple[str, Callable[[Case], Finding]], ...] = (
    ("data", _data),
    ("labels", _labels),
    ("no entity", lambda case: checks.check_empty(case.splits.train)),
    ("leakage", _leakage("validation")),
    ("leakage", _leakage("dev")),
    ("model", _model),
    ("tokenizer", _tokenizer),
    ("pad token", _pad),
    ("end token", _end),
    ("prompt", _prompt),
    ("supervised", _supervised),
    ("rows", _rows),
    ("answers", _answers),
    ("room", _room),
    ("generation_config", _generation),
    ("batches", _batches),
    ("steps", _steps),
    ("memory", _memory),
    ("disk", _disk),
    ("processes", _processes),
    ("trackers", _trackers),
    ("hub", _hub),
)


def examine(case: Case) -> Iterator[Finding]:
    """A finding for each of `CHECKS`, in that order, as it is made; what a missing part leaves unchecked is a fail."""
    told: set[str] = set()
    for name, check in CHECKS:
        try:
            yield check(case)
        except Unavailable as missing:
            if missing.part not in told:
                told.add(missing.part)
                yield Finding("fail", missing.part, str(missing.error))
            if missing.part != name:
                yield Finding("fail", name, f"not checked, for want of the {missing.part}", "see above")
        except NerError as error:
            yield Finding("fail", name, str(error))
