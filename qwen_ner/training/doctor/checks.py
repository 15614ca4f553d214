"""What can be wrong with the rows, tokens and labels of a training, each as one small function over plain values.

In: token ids, texts, label sets. Out: a `Finding` each. `doctor` runs all of them, a training the quick ones
(`quick`). Knows nothing of recipes, loads no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...codec import Codec
from ...data.analysis.stats import leaks
from ...data.tokenize import column, prompt_ids
from ...entities import Example, LabelSet
from ..finding import Finding, Level, listed

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ..batches.collate import PaddedCollator, PrefixSharedCollator

RARE = 10
"""A label of fewer surfaces in the training rows is said to be rare."""

LEAKED_SHARE = 0.01
"""Of the held-out rows: from here on a leak is a fail. Below, it moves the score by less than its own chance does."""

_NEUTRAL: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "typical_p": 1.0,
    "renormalize_logits": False,
}
"""The fields of a generation_config that change what is written, and the value at which they do not."""

_FORCING = (
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "sequence_bias",
    "penalty_alpha",
    "guidance_scale",
    "min_p",
    "stop_strings",
    "max_time",
)
"""Fields that change what is written wherever they are set."""


def quick(
    tokenizer: PreTrainedTokenizerBase,
    codec: Codec,
    collator: PaddedCollator | PrefixSharedCollator,
    stops: Sequence[int],
    rows: Dataset,
    examples: Sequence[Example],
    max_new_tokens: int,
) -> list[Finding]:
    """What a training checks of its own rows before the first step, in milliseconds.

    `examples[i]` is the example of which `row` is i; `rows` may hold fewer. `stops` end a generation.
    """
    first = rows[0]
    text = examples[first["row"]].text
    lengths = [len(ids) for ids in column(rows, "answer_ids")]

    def source_of(n: int) -> str:
        return examples[rows[n]["row"]].source

    return [
        check_pad(tokenizer, stops),
        check_end(tokenizer, column(rows, "answer_ids"), learned(collator, first), stops, source_of),
        check_prompts([first["prompt_ids"]], prompt_ids(tokenizer, codec, [text]), [text], tokenizer),
        check_supervised(lengths, source_of),
        check_answers(lengths, max_new_tokens, source_of),
    ]


def learned(collator: PaddedCollator | PrefixSharedCollator, row: dict[str, Any]) -> list[int]:
    """The tokens of one row that the loss is computed on, as the collator of the training hands them to the model."""
    return collator([row])["shift_labels"][0].tolist()


def check_pad(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> Finding:
    """The pad token is none of those that end a generation, in the tokenizer as it is used and as it ships."""
    name, pad, ends = "pad token", tokenizer.pad_token_id, tokenizer.convert_ids_to_tokens(list(stops))
    if pad is None or pad in stops:
        return Finding(
            "fail",
            name,
            f"the pad token is {tokenizer.pad_token}, which ends an answer: other tools would mask it out of the loss",
            "set another pad_token in tokenizer_config.json",
        )
    shipped = str(tokenizer.init_kwargs.get("pad_token"))
    if shipped != tokenizer.pad_token:
        fault = "no pad token" if shipped == "None" else f"its end token {shipped} as pad token"
        return Finding(
            "warn",
            name,
            f"the tokenizer ships with {fault}; {tokenizer.pad_token} is used instead, and written to the output_dir",
            "nothing to do for this training; other tools that start from the same tokenizer need pad_token set",
        )
    return Finding("ok", name, f"{tokenizer.pad_token}; an answer ends with {' or '.join(ends)}")


def check_end(
    tokenizer: PreTrainedTokenizerBase,
    answers: Iterable[Sequence[int]],
    learned: Sequence[int],
    stops: Sequence[int],
    source_of: Callable[[int], str],
) -> Finding:
    """Every answer ends with the token at which generation stops, once, and that token is in the loss.

    `learned` are the tokens of some row that the loss is computed on.
    """
    name, end = "end token", stops[0]
    spelled = tokenizer.convert_ids_to_tokens(end)
    if not learned or learned[-1] != end:
        last = repr(tokenizer.decode(list(learned[-1:])))
        return Finding(
            "fail",
            name,
            f"the last token in the loss is {last}, and generation stops at {spelled}: the model would never end",
            "check that the chat template closes the assistant's turn with the token that eos_token names",
        )
    number, unended, ended_before, ends = 0, list[int](), list[int](), set(stops)
    for number, ids in enumerate(answers, start=1):
        if not ids or ids[-1] != end:
            unended.append(number - 1)
        elif not ends.isdisjoint(ids[:-1]):
            ended_before.append(number - 1)
    if unended:
        found = f"{len(unended)} of {number} answers do not end with {spelled}: {listed(map(source_of, unended))}"
        return Finding("fail", name, found, "clear the cache of data sets (HF_DATASETS_CACHE) and tokenize them again")
    if ended_before:
        return Finding(
            "fail",
            name,
            f"{len(ended_before)} of {number} answers hold an end token amid them: "
            f"{listed(map(source_of, ended_before))}",
            "write that token in these texts otherwise",
        )
    return Finding("ok", name, f"{spelled} ends each of {number:,} answers, is in the loss, and stops generation")


def check_prompts(
    trained: Sequence[Sequence[int]],
    inferred: Sequence[Sequence[int]],
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> Finding:
    """The prompts trained on are those that inference will make for the same texts, and hold the texts unchanged."""
    name = "prompt"
    for before, after, text in zip(trained, inferred, texts, strict=True):
        if list(before) != list(after):
            at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
            at = min(len(before), len(after)) if at is None else at
            one, other = (repr(tokenizer.decode(list(ids[max(0, at - 2) : at + 6]))) for ids in (before, after))
            return Finding(
                "fail",
                name,
                f"{text[:20]!r} has another prompt in training than at inference from token {at} on: {one}, {other}",
                "take what changes from call to call out of the chat template, clear the cache of data sets",
            )
        if text not in tokenizer.decode(list(before)):
            return Finding(
                "fail",
                name,
                f"the prompt of {text[:20]!r} does not hold this text as it is: {tokenizer.decode(list(before))!r}",
                "use a tokenizer that does not normalize and a chat template that leaves the user's turn as it is",
            )
    if "strftime_now" in str(tokenizer.chat_template):
        return Finding(
            "fail",
            name,
            "the chat template writes the day's date into the prompt, so that it is another one tomorrow",
            "take strftime_now out of it: save the tokenizer with a template of your own",
        )
    count = "1 text" if len(texts) == 1 else f"{len(texts)} texts"
    return Finding("ok", name, f"for {count} the one of training, token by token, is the one of inference")


def check_supervised(lengths: Sequence[int], source_of: Callable[[int], str]) -> Finding:
    """No row without a token to learn; `lengths` are those of the answers."""
    empty = [n for n, length in enumerate(lengths) if not length]
    if empty:
        found = f"{len(empty)} of {len(lengths)} rows have no supervised token: {listed(map(source_of, empty))}"
        return Finding("fail", "supervised", found, "clear the cache of data sets (HF_DATASETS_CACHE)")
    mean = sum(lengths) / len(lengths)
    return Finding("ok", "supervised", f"every row has supervised tokens, {mean:.1f} of them on average")


def check_rows(examples: Sequence[Example], lengths: Sequence[int], max_length: int) -> Finding:
    """Rows over `max_length` tokens, which are left out of training: in rows and in entities lost."""
    long = [i for i, length in enumerate(lengths) if length > max_length]
    lost, entities = sum(len(examples[i].entities) for i in long), sum(len(example.entities) for example in examples)
    if not long:
        return Finding("ok", "rows", f"the longest has {max(lengths):,} of {max_length:,} tokens")
    named = listed(f"{examples[i].source} ({lengths[i]:,} tokens)" for i in long)
    found = (
        f"{len(long):,} of {len(examples):,} rows, with {lost:,} of {entities:,} entities, are longer than "
        f"{max_length:,} tokens and left out of training: {named}"
    )
    level: Level = "fail" if len(long) == len(examples) else "warn"
    return Finding(level, "rows", found, "split these texts or raise max_length")


def check_answers(lengths: Sequence[int], max_new_tokens: int, source_of: Callable[[int], str]) -> Finding:
    """Answers that the model would not be allowed to finish."""
    long = sorted((n for n, length in enumerate(lengths) if length > max_new_tokens), key=lambda n: -lengths[n])
    if not long:
        return Finding("ok", "answers", f"the longest has {max(lengths):,} of max_new_tokens={max_new_tokens:,} tokens")
    found = (
        f"{len(long):,} of {len(lengths):,} answers are longer than max_new_tokens={max_new_tokens:,} and can never be "
        f"written to their end: {listed(f'{source_of(n)} ({lengths[n]:,} tokens)' for n in long)}"
    )
    return Finding("warn", "answers", found, f"raise max_new_tokens to {lengths[long[0]]:,}")


def check_room(lengths: Sequence[int], room: int, sources: Sequence[str]) -> Finding:
    """Prompts to evaluate that leave no room for their answer: to drop them would flatter the score."""
    long = [f"{source} ({n:,} tokens)" for n, source in zip(lengths, sources, strict=True) if n > room]
    if long:
        found = (
            f"{len(long):,} of {len(lengths):,} prompts to evaluate are longer than the {room:,} tokens that the model "
            f"has room for before an answer: {listed(long, 10)}"
        )
        return Finding("fail", "room", found, "split these texts")
    return Finding("ok", "room", f"the longest prompt to evaluate has {max(lengths):,} of {room:,} tokens")


def check_generation(base: Mapping[str, Any], shipped: Mapping[str, Any], stops: Sequence[int]) -> Finding:
    """What the base's generation_config would do to answers, and that none of it is left in the one that will ship."""
    name, before, left = "generation_config", traps(base), traps(shipped)
    given = shipped.get("eos_token_id")
    ends = given if isinstance(given, list) else [given]
    if left or not set(stops) <= set(ends):
        what = f"has {listed(left, 20)}" if left else f"stops at {ends}, not at {list(stops)}"
        return Finding(
            "fail", name, f"the one that the trained folder would ship {what}", "report it: this is qwen_ner's fault"
        )
    if not before:
        return Finding("ok", name, "greedy and without penalties")
    return Finding(
        "ok", name, f"the base's has {listed(before, 20)}; the trained folder's is greedy, without penalties"
    )


def traps(config: Mapping[str, Any]) -> list[str]:
    """The fields of a generation_config that make it write something else than what is likeliest.

    >>> traps({"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.1, "num_beams": 1})
    ['do_sample True', 'repetition_penalty 1.1', 'temperature 0.7']
    """
    sampled = {"temperature", "top_p", "top_k", "typical_p", "min_p"}
    found = [f"{key} {config[key]}" for key, value in _NEUTRAL.items() if config.get(key) not in (None, value)]
    found += [f"{key} {config[key]}" for key in _FORCING if config.get(key) is not None]
    return [field for field in found if config.get("do_sample") or field.split()[0] not in sampled]


def check_labels(labels: LabelSet, train: Sequence[Example]) -> Finding:
    """Labels that the training rows have never or hardly ever."""
    surfaces = Counter(label for example in train for label, _ in example.surfaces)
    absent = [name for name in labels.names if not surfaces[name]]
    rare = [f"{name} ({surfaces[name]})" for name in labels.names if 0 < surfaces[name] < RARE]
    if absent or rare:
        parts = [f"never in the training rows: {listed(absent, 20)}"] if absent else []
        parts += [f"rare in the training rows: {listed(rare, 20)}"] if rare else []
        remedy = "annotate more of them, or take them out of `labels`: they count in macro_f1"
        return Finding("warn", "labels", "; ".join(parts), remedy)
    most, least = max(labels.names, key=lambda n: surfaces[n]), min(labels.names, key=lambda n: surfaces[n])
    span = f"from {surfaces[least]:,} surfaces ({least}) to {surfaces[most]:,} ({most})"
    return Finding("ok", "labels", f"all {len(labels)} occur in the training rows, {span}")


def check_empty(train: Sequence[Example]) -> Finding:
    """Whether the model is ever shown a text without entities."""
    empty = sum(not example.entities for example in train)
    if not empty:
        return Finding(
            "warn",
            "no entity",
            f"each of {len(train):,} training rows has an entity: the model never sees a text whose answer is {{}}",
            "add sentences without entities if the texts to read have such",
        )
    return Finding("ok", "no entity", f"{empty:,} of {len(train):,} training rows have none and teach the answer {{}}")


def check_leakage(train: Sequence[Example], held_out: Sequence[Example], split: str) -> Finding:
    """Held-out rows whose text stands in the training rows too, but for case, width, punctuation and space."""
    pairs = {id(held): f"{held.source} = {seen.source}" for seen, held in leaks(train, held_out)}
    if not pairs:
        return Finding("ok", "leakage", f"none of the {len(held_out):,} {split} rows stands in the training rows")
    level: Level = "fail" if len(pairs) >= LEAKED_SHARE * len(held_out) else "warn"
    found = f"{len(pairs):,} of {len(held_out):,} {split} rows stand in the training rows too: {listed(pairs.values())}"
    return Finding(level, "leakage", found, "delete them from one of the two, or the score is too good")
