"""What can be wrong with the rows, tokens and labels of a training: one small function per check.

In: a `TrainingPlan`. Out: a `Finding`. A check raises `NerError` if a part of the plan that it needs cannot be made.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Literal

from transformers import PreTrainedTokenizerBase

from ...codec import Codec
from ...columns import join_names
from ...composed import nfc
from ...contract import NerConfig
from ...data.analysis.duplicates import leaks
from ...data.tokenize import column, prompt_ids, takes_system_turn, unclosed_thought
from ...inference.loading import load_tokenizer
from ..finding import Finding, fail, ok, warn
from ..plan import TrainingPlan
from ..preparation import HELD_OUT, check_metric

RARE = 10
"""A label with fewer surfaces in the training rows is called rare."""

LEAKED_SHARE = 0.01
"""From this share of the dev rows on, a leak is a failure; below, it moves the score by less than its noise."""

LOST_ROWS, LOST_ANSWERS = 0.5, 0.2
"""From this share on, rows that are left out, or answers that can never be written, leave a model of no worth."""

COMPARED = 32
"""Rows, spread over the training rows, whose prompts are made again as inference makes them."""


def check_data(plan: TrainingPlan) -> Finding:
    splits = plan.splits
    check_metric(plan.recipe.training, splits.labels)
    parts = {"train": splits.train, splits.validation_name: splits.validation, splits.final_name: splits.final}
    counted = " · ".join(f"{name} {len(examples):,}" for name, examples in parts.items() if examples)
    entities = sum(len(example.entities) for example in splits.train)
    found = f"{plan.recipe.data.dataset}: {counted} rows; {entities:,} entities to train on"
    return (warn if splits.notes else ok)("\n".join([found, *splits.notes]))


def check_labels(plan: TrainingPlan) -> Finding:
    """Labels that the training rows rarely or never have."""
    names = plan.splits.labels.names
    surfaces = Counter(label for example in plan.splits.train for label, _ in example.surfaces)
    absent = [name for name in names if not surfaces[name]]
    rare = [f"{name} ({surfaces[name]})" for name in names if 0 < surfaces[name] < RARE]
    if absent or rare:
        parts = [f"never in the training rows: {join_names(absent, 20)}"] if absent else []
        parts += [f"rare in the training rows: {join_names(rare, 20)}"] if rare else []
        return warn("; ".join(parts), "annotate more of them, or remove them from `labels`")
    most, least = max(names, key=lambda n: surfaces[n]), min(names, key=lambda n: surfaces[n])
    span = f"from {surfaces[least]:,} times ({least}) to {surfaces[most]:,} ({most})"
    return ok(f"all {len(names)} occur in the training rows, {span}")


def check_empty(plan: TrainingPlan) -> Finding:
    """Whether the model ever sees a text without entities."""
    train = plan.examples
    if empty := sum(not example.entities for example in train):
        return ok(f"{empty:,} of {len(train):,} training rows have none, so the model learns to find none")
    return warn(
        f"each of {len(train):,} training rows has an entity: the model never sees a text without one",
        "if your texts include such sentences, add some (negatives: 0.1)",
    )


def check_leakage(part: Literal["validation", "final"], plan: TrainingPlan) -> Finding:
    """Held-out rows whose text is in the training rows too, up to case, width, punctuation and space."""
    splits, final = plan.splits, part == "final"
    held_out, split = (splits.final, splits.final_name) if final else (splits.validation, splits.validation_name)
    if not held_out:
        return ok(f"there is no {split} split")
    pairs = {id(held): f"{held.source} = {seen.source}" for seen, held in leaks(splits.train, held_out)}
    if not pairs:
        return ok(f"none of the {len(held_out):,} {split} rows is in the training rows")
    named = join_names(pairs.values())
    found = f"{len(pairs):,} of {len(held_out):,} {split} rows are in the training rows too: {named}"
    if split == HELD_OUT:  # held out by us: the train split repeats itself
        remedy = "delete what repeats from the train split (`qwen-ner stats` lists it), or validation is too kind"
        return warn(found, remedy)
    level = fail if len(pairs) >= LEAKED_SHARE * len(held_out) else warn
    return level(found, "delete them from one of the two, or the score is too good")


def check_tokenizer(plan: TrainingPlan) -> Finding:
    """The model has an embedding for each token."""
    tokens, embeddings = len(plan.tokenizer), plan.model.config.get_text_config().vocab_size
    if tokens > embeddings:
        found = f"the tokenizer has {tokens:,} tokens, but the model has embeddings for only {embeddings:,}"
        return fail(found, "use the tokenizer that belongs to the model")
    return ok(f"{tokens:,} tokens; the model has embeddings for {embeddings:,}")


def check_pad(plan: TrainingPlan) -> Finding:
    """The pad token does not end an answer; as it ships it may, and is then replaced when the tokenizer is loaded."""
    tokenizer, ends = plan.tokenizer, plan.end_token_ids
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        return fail(
            f"the pad token is {tokenizer.pad_token}, which ends an answer: other tools would mask it out of the loss",
            "set another pad_token in tokenizer_config.json",
        )
    spelled = " or ".join(tokenizer.convert_ids_to_tokens(list(ends)))
    return ok(f"{tokenizer.pad_token}; an answer ends with {spelled}")


def check_end(plan: TrainingPlan) -> Finding:
    """Every answer ends with the token at which generation stops, has it once, and has it in the loss."""
    ends, end = set(plan.end_token_ids), plan.end_token_ids[0]
    spelled = plan.tokenizer.convert_ids_to_tokens(end)
    learned = plan.collator([plan.rows[0]])["shift_labels"][0].tolist()
    if not learned or learned[-1] != end:
        last = repr(plan.tokenizer.decode(learned[-1:]))
        return fail(
            f"the last token in the loss is {last}, but generation stops at {spelled}: the model would never stop",
            "check that the chat template closes the assistant's turn with the token that eos_token names",
        )
    if other := [n for n, ids in enumerate(column(plan.rows, "answer_ids")) if ids[-1:] != [end]]:
        named = join_names(plan.examples[n].source for n in other)
        found = f"{len(other)} of {len(plan.rows)} answers do not end with {spelled}: {named}"
        return fail(found, "clear the cache of data sets (HF_DATASETS_CACHE), so that they are tokenized again")
    if early := [n for n, ids in enumerate(column(plan.rows, "answer_ids")) if not ends.isdisjoint(ids[:-1])]:
        named = join_names(plan.examples[n].source for n in early)
        found = f"{len(early)} of {len(plan.rows)} answers have an end token before their end: {named}"
        return fail(found, "spell that token differently in these texts")
    return ok(f"{spelled} ends each of {len(plan.rows):,} answers, is in the loss, and stops generation")


def check_prompt(plan: TrainingPlan) -> Finding:
    """The prompts that are trained on are those that the folder of the trained model will make of the same texts."""
    with tempfile.TemporaryDirectory() as folder:
        plan.tokenizer.save_pretrained(folder)
        plan.config.save(folder)
        tokenizer, codec = load_tokenizer(folder), NerConfig.load(folder).codec()
    some = plan.rows.select(range(0, len(plan.rows), max(1, len(plan.rows) // COMPARED)))
    texts = [plan.examples[row].text for row in some["row"]]
    compared = compare_prompts(some["prompt_ids"], prompt_ids(tokenizer, codec, texts), texts, tokenizer)
    if compared.level == "fail":
        return compared
    if plan.codec.target != Codec.target and "json" in plan.codec.system_prompt.lower():
        found = f"the system_prompt asks for JSON, but the target is {plan.codec.target}"
        return warn(found, "let it ask for a copy of the text with [surface label], or leave it out")
    return check_template(tokenizer) or compared


def check_template(tokenizer: PreTrainedTokenizerBase) -> Finding | None:
    """What the chat template does that other tools, or the model, have to know of; None if it does nothing unusual."""
    if tag := unclosed_thought(tokenizer):
        found = f"the chat template begins every answer with {tag}, so the model would think instead of answering"
        return warn(found, "use a model that need not think, or close the thought in the chat template")
    if not takes_system_turn(tokenizer):
        found = "the chat template has no system turn; the system prompt is written before the text in the user's turn"
        return warn(found, "nothing to do here, but other tools have to write it there too")
    return None


def compare_prompts(
    trained: Sequence[Sequence[int]],
    inferred: Sequence[Sequence[int]],
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> Finding:
    """The prompts are equal, token by token, and hold the NFC of the texts."""
    for before, after, text in zip(trained, inferred, texts, strict=True):
        if list(before) != list(after):
            at = next(i for i, (one, other) in enumerate(zip_longest(before, after)) if one != other)
            around = ", ".join(repr(tokenizer.decode(list(ids[max(0, at - 2) : at + 6]))) for ids in (before, after))
            return fail(
                f"from token {at} on, {text[:20]!r} has another prompt in training than at inference: {around}",
                "remove what changes from call to call from the chat template, and clear the cache of data sets",
            )
        if nfc(text) not in tokenizer.decode(list(before)):
            return fail(
                f"the prompt of {text[:20]!r} does not hold the text unchanged: {tokenizer.decode(list(before))!r}",
                "use a tokenizer that changes no text in NFC and a chat template that keeps the user's turn as it is",
            )
    if "strftime_now" in str(tokenizer.chat_template):
        return fail(
            "the chat template writes today's date into the prompt, so tomorrow's prompts will differ",
            "save the tokenizer with a chat template that has no strftime_now",
        )
    return ok(f"for {len(texts)} text{'s'[: len(texts) > 1]} the same in training as at inference, token by token")


def check_rows(plan: TrainingPlan) -> Finding:
    """Rows over `max_length` tokens: those that are split, and those that cannot be, with what they lose."""
    split, examples = plan.split_rows, plan.examples
    lengths, limit = list(column(plan.rows, "length")), plan.max_length
    long = [i for i, length in enumerate(lengths) if length > limit]
    found = [f"longer than max_length={limit:,} tokens: {split}"] if split.documents else []
    if not long:
        found.append(f"the longest has {max(lengths):,} of {limit:,} tokens")
        return (ok if split.kept == split.entities else warn)("; ".join(found))
    if len(long) == len(examples):
        _ = plan.fitting_rows  # raises: what needs rows to train on fails with it
    lost, entities = sum(len(examples[i].entities) for i in long), sum(len(example.entities) for example in examples)
    named = join_names(f"{examples[i].source} ({lengths[i]:,} tokens)" for i in long)
    found.append(
        f"{len(long):,} of {len(examples):,} rows, with {lost:,} of {entities:,} entities, are longer than "
        f"max_length={limit:,} tokens and left out of training: {named}"
    )
    remedy = "split these texts" + (" or raise max_length" if limit < plan.context else "")
    return (fail if len(long) >= LOST_ROWS * len(examples) else warn)("; ".join(found), remedy)


def check_answers(plan: TrainingPlan) -> Finding:
    """Answers that the model could not finish, and entities that no answer has."""
    limit, trained = plan.max_new_tokens, len(plan.rows)
    lengths = [len(ids) for ids in chain(column(plan.rows, "answer_ids"), column(plan.gold_rows, "answer_ids"))]
    long = sorted((n for n, length in enumerate(lengths) if length > limit), key=lambda n: -lengths[n])
    overlapping = ""
    if lost := sum(map(plan.codec.unwritten, plan.examples)):
        total, target = sum(len(example.entities) for example in plan.examples), plan.codec.target
        overlapping = f"{lost:,} of {total:,} entities to train on overlap another: target {target} leaves them out"
    if not long:
        found = f"the longest has {max(lengths):,} of max_new_tokens={limit:,} tokens"
        return warn(f"{overlapping}; {found}", "use target: json, which has all") if lost else ok(found)
    sources = (plan.examples[n].source if n < trained else plan.gold_parts[n - trained].source for n in long)
    named = join_names(f"{source} ({lengths[n]:,} tokens)" for n, source in zip(long, sources, strict=True))
    found = f"{len(long):,} of {len(lengths):,} answers are longer than max_new_tokens={limit:,} and would be cut"
    found = f"{overlapping}; {found}" if lost else found
    needed, prompts = lengths[long[0]], max(map(len, column(plan.gold_rows, "prompt_ids")), default=0)
    remedy = f"raise max_new_tokens to {needed:,}" if needed + prompts <= plan.context else "split these texts"
    return (fail if len(long) >= LOST_ANSWERS * len(lengths) else warn)(f"{found}: {named}", remedy)


def check_room(plan: TrainingPlan) -> Finding:
    """Prompts to score that leave no room for their answer. Dropping them would flatter the score."""
    room = plan.context - plan.max_new_tokens
    lengths = [len(ids) for ids in column(plan.gold_rows, "prompt_ids")]
    if long := [f"{e.source} ({n:,} tokens)" for n, e in zip(lengths, plan.gold_parts, strict=True) if n > room]:
        found = f"{len(long):,} of {len(lengths):,} prompts to score are longer than {room:,} tokens"
        answers, left = max(map(len, column(plan.gold_rows, "answer_ids"))), plan.context - max(lengths)
        remedy = "split these texts" + (f", or lower max_new_tokens to {left:,}" if answers <= left else "")
        return fail(f"{found}, which leaves no room for an answer: {join_names(long, 10)}", remedy)
    return ok(f"the longest prompt to score has {max(lengths):,} of {room:,} tokens")
