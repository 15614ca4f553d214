"""Examples to token ids: the chat template, the target, and which tokens are supervised.

In: `Example`s, a `Codec`, a tokenizer with a chat template. Out: a `datasets.Dataset` of prompt_ids and answer_ids. The
prompt is built here for training, evaluation and serving alike. Knows nothing of models and recipes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..codec import Codec
from ..composed import nfc
from ..entities import Example, NerError, TextFault, fingerprint
from .arrow_store import StoredExamples, cache_folder, writable
from .formats.errors import quote
from .formats.rows import HALF_PAIR

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, codec: Codec, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of the conversation of each text, up to the assistant's turn. Never truncated.

    If the chat template has no system turn, the system prompt is written into the user's (`Codec.messages`).

    Models that can think before they answer (Qwen3) are asked not to: with `enable_thinking=False` their template
    writes an empty thought into the prompt, in training as in serving. Other templates ignore it.

    A text that contains a special token, `<|im_end|>` say, is written with ordinary tokens, so that a text never ends
    the user's turn or begins another one. All others have the ids that the template gives their NFC. Raises
    `NerError` if the template changes such a text, so that it cannot be separated from the template, and for half a
    surrogate pair, which UTF-8 cannot encode.
    """
    if not texts:
        return []
    if broken := next((text for text in texts if HALF_PAIR.search(text)), None):
        raise TextFault(f"half a surrogate pair in {quote(broken)}", remedy="write the character whole")
    texts = list(map(nfc, texts))
    system_turn = takes_system_turn(tokenizer)
    *conversations, harmless = (
        _rendered(tokenizer, codec.messages(text, system_turn=system_turn)) for text in (*texts, HARMLESS)
    )
    *ids, pattern = tokenizer([*conversations, harmless], add_special_tokens=False)["input_ids"]
    added = _added_tokens(tokenizer)
    markers = [token for token in pattern if token in added]
    return [
        row
        if [token for token in row if token in added] == markers
        else _apart(tokenizer, text, conversation, harmless)
        for row, text, conversation in zip(ids, texts, conversations, strict=True)
    ]


HARMLESS = "\ue000text\ue000"
"""A text that no template changes, and that can be found in what the template makes of it."""


def takes_system_turn(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes a system turn, rather than refuse it (Gemma) or leave it out."""
    turns = [{"role": "system", "content": HARMLESS}, {"role": "user", "content": "?"}]
    with suppress(NerError):
        return HARMLESS in _rendered(tokenizer, turns)
    return False


def unclosed_thought(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The tag with which the chat template opens a thought that the answer would have to close, `<think>` say."""
    answer = _rendered(tokenizer, [{"role": "user", "content": HARMLESS}]).rpartition(HARMLESS)[2]
    tags = re.findall(r"[<\[][^<>\[\]]*(?:think|thought|reason)[^<>\[\]]*[>\]]", answer, re.IGNORECASE)
    return tags[-1] if tags and not re.search("/|end", tags[-1]) else None


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, add_generation_prompt: bool = True
) -> str:
    """What the chat template makes of `messages`. Raises `NerError` if it makes nothing of them."""
    options = {"add_generation_prompt": add_generation_prompt, "enable_thinking": False}
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:  # a template is a program of its own
        what, roles = f"the chat template fails ({error})", ", ".join(message["role"] for message in messages)
        remedy = "use an instruct model that takes these turns"
        raise NerError(what, value=roles, place=tokenizer.name_or_path, remedy=remedy) from error


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of added tokens, special ones among them, which a tokenizer looks for in a text first."""
    return frozenset(tokenizer.get_added_vocab().values())


def _apart(tokenizer: PreTrainedTokenizerBase, text: str, conversation: str, harmless: str) -> list[int]:
    """The ids of `conversation`, which has `text` where `harmless` has `HARMLESS`, without special tokens in the text.

    The part between two special tokens of the template is tokenized as one piece, as in any other conversation.
    """
    before, _, behind = harmless.partition(HARMLESS)
    if conversation not in [before + kept + behind for kept in (text, text.strip(), text.rstrip())]:
        fault = f"{quote(text)} contains a special token of the tokenizer, and the chat template changes the text"
        raise TextFault(fault, remedy="remove the token from the text")
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values()]
    start = max((at + len(token) for token in tokens if (at := before.rfind(token)) >= 0), default=0)
    end = min((at for token in tokens if (at := behind.find(token)) >= 0), default=len(behind))
    middle = conversation[start : len(conversation) - len(behind) + end]
    head, tail = tokenizer([before[:start], behind[end:]], add_special_tokens=False)["input_ids"]
    return [*head, *spelled_out(tokenizer, middle), *tail]


def spelled_out(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of `text` without special tokens, whatever it contains."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    added = _added_tokens(tokenizer)
    if added.isdisjoint(ids):
        return ids
    ids = _plain(tokenizer).encode(text, add_special_tokens=False).ids
    if not added.isdisjoint(ids):
        fault = f"{tokenizer.name_or_path} has no ordinary tokens for the special token in {quote(text)}"
        raise TextFault(fault, remedy="remove the token from the text")
    return ids


def has_room(text: str, codec: Codec, tokenizer: PreTrainedTokenizerBase, limit: int) -> bool:
    """Whether an answer to `text` without entities, which inline is a copy of it, and its end token take at most
    `limit` tokens. True of what `prompt_ids` refuses."""
    answer = codec.encode(Example("", text))
    if 4 * len(answer) < limit or HALF_PAIR.search(text):
        return True
    with suppress(TextFault):
        return len(spelled_out(tokenizer, answer)) < limit
    return True


@lru_cache(maxsize=2)
def _plain(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The same tokenizer without special tokens; made only if a text contains one, since that takes a second."""
    from tokenizers import Tokenizer

    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**tree, "added_tokens": [], "post_processor": None}))


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the token with which the chat template closes the assistant's turn (Qwen: `<|im_end|>`).

    It is read from the template, because many base models have another eos_token. If the template puts nothing after
    the answer, it is eos_token.
    """
    marker = "§answer§"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": marker}]
    behind = _rendered(tokenizer, turns, add_generation_prompt=False).rpartition(marker)[2]
    ids = tokenizer(behind.strip(), add_special_tokens=False)["input_ids"] if behind.strip() else []
    if ids and ids[0] in tokenizer.all_special_ids + list(tokenizer.added_tokens_decoder):
        return ids[0]
    if tokenizer.eos_token_id is None:
        fault = "neither the chat template nor eos_token ends a turn"
        raise NerError(fault, place=tokenizer.name_or_path, remedy="set eos_token")
    return tokenizer.eos_token_id


def end_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end an answer; the first one is written in training."""
    return tuple(dict.fromkeys((end_of_turn(tokenizer), tokenizer.eos_token_id)))


def build_dataset(
    examples: Sequence[Example],
    codec: Codec,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_proc: int | None = None,
    desc: str = "Tokenizing",
) -> Dataset:
    """Tokenize `examples` with `datasets.map`; cached on disk under a key of the rows, prompt, tokenizer and version.

    Columns, one row per example, in their order:
        row         int        position in `examples`; how a prediction finds its gold
        prompt_ids  list[int]  not supervised
        answer_ids  list[int]  supervised: the target and the end-of-turn token
        length      int        tokens of both

    Raises `NerError` if an example has a label outside the label set of the codec.
    """
    stored, cache = StoredExamples.of(examples).rows, cache_folder()
    end = end_of_turn(tokenizer)
    key = _cache_key(examples, codec, tokenizer, end)
    options = {"codec": codec, "tokenizer": tokenizer, "end": end}

    def tokenized() -> Dataset:
        with TemporaryDirectory(dir=cache) as folder:
            # Workers open the rows by the name of a file.
            rows = stored.flatten_indices(cache_file_name=f"{folder}/rows.arrow") if num_proc and not kept else stored
            return rows.map(
                _tokenize,
                with_indices=True,
                batched=True,
                fn_kwargs=options,
                remove_columns=stored.column_names,
                num_proc=num_proc,
                desc=desc,
                # A key of our own: hashing a large tokenizer by pickle takes longer than tokenizing CLUENER with it.
                cache_file_name=str(cache / f"{key}.arrow"),
                new_fingerprint=key,
            )

    with writable(cache):
        if kept := sorted(cache.glob(f"{key}*.arrow")):
            try:
                if len(made := tokenized()) == len(stored):
                    return made
                fault: object = f"{len(made)} rows"
            except Exception as error:  # pyarrow's, of many kinds
                fault = error
            log.warning("%s is damaged (%s); tokenizing again.", kept[0], fault)
            while kept:
                kept.pop().unlink()
        return tokenized()


def _tokenize(
    batch: dict[str, list[Any]], positions: Sequence[int], codec: Codec, tokenizer: PreTrainedTokenizerBase, end: int
) -> dict[str, Any]:
    targets = [codec.encode(StoredExamples.load(line)) for line in batch["line"]]
    prompts = prompt_ids(tokenizer, codec, batch["text"])
    written, added = tokenizer(targets, add_special_tokens=False)["input_ids"], _added_tokens(tokenizer)
    answers = [
        [*(ids if added.isdisjoint(ids) else spelled_out(tokenizer, target)), end]
        for ids, target in zip(written, targets, strict=True)
    ]
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return {"row": list(positions), "prompt_ids": prompts, "answer_ids": answers, "length": lengths}


SPELLING = 5
"""Version of how ids are made from a text, part of the cache key: change it when they change."""


def _cache_key(examples: Sequence[Example], codec: Codec, tokenizer: PreTrainedTokenizerBase, end: int) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = (
        version("qwen_ner"),
        SPELLING,
        version("tokenizers"),
        fingerprint(examples),
        end,
        codec.labels.names,
        codec.system_prompt,
        codec.target,
        tokenizer.chat_template,
        backend.to_str() if backend is not None else repr(tokenizer.get_vocab()),
    )
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def token_counts(
    examples: Sequence[Example], codec: Codec, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[int, int]]:
    """(prompt tokens, answer tokens with the end of the turn) of each example. Raises as `build_dataset` does."""
    rows = build_dataset(examples, codec, tokenizer)
    prompts, answers = column(rows, "prompt_ids"), column(rows, "answer_ids")
    return [(len(prompt), len(answer)) for prompt, answer in zip(prompts, answers, strict=True)]


def column(dataset: Dataset, name: str) -> Iterator[Any]:
    """The values of a column in turn, a thousand in memory at a time."""
    for table in dataset.select_columns([name]).with_format("arrow").iter(1_000):
        yield from table[name].to_pylist()


def longest_first(dataset: Dataset) -> Dataset:
    """The rows of `dataset`, longest first: little padding, and a batch too large for the memory comes first."""
    lengths = list(column(dataset, "length"))
    return dataset.select(sorted(range(len(lengths)), key=lambda i: -lengths[i]))
