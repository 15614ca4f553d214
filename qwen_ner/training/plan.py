"""The parts of a training: base, tokenizer, config, rows, model, collator, each made in one place.

In: a recipe, a folder for what has to be written, and how the processes are launched. Out: the parts, made when first
asked for. `run` trains with them, `doctor` checks them. Does not know what is done with them.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..codec import Codec
from ..contract import NerConfig
from ..data.tokenize import build_dataset, column, end_token_ids, has_room, longest_first
from ..entities import Example, NerError, fingerprint
from ..inference.hub_download import ADAPTER, is_absent_folder
from ..inference.loading import load_tokenizer
from ..inference.windows import Window, windows_to_read
from ..inline import CODECS
from .batches.collate import PaddedCollator, PrefixSharedCollator, choose_collator
from .launch import Launch
from .long_rows import SplitRows, cut_out, split_long
from .model import load_model, outline_model
from .preparation import Splits, read_splits
from .recipe import Recipe
from .tiny import make_tiny

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")

log = logging.getLogger(__name__)

MARGIN, STEP = 1.5, 32
"""`max_new_tokens` that no recipe sets: so often the longest training answer, up to the next multiple of STEP."""


class part(Generic[T]):
    """A property that is computed once. If it raises a `NerError`, it raises the same one from then on."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self.make = make

    def __get__(self, plan: TrainingPlan, owner: type[TrainingPlan]) -> T:
        if self not in plan.made:
            try:
                plan.made[self] = self.make(plan)
            except NerError as error:
                plan.made[self] = error
        made = plan.made[self]
        if isinstance(made, NerError):
            raise made
        return made


class TrainingPlan:
    """Everything that a training is made of.

    With `outline=True` the model has no weights; nothing else differs between the plan that the doctor examines and the
    plan that is trained. The toy model is written below `folder`.
    """

    def __init__(self, recipe: Recipe, folder: Path, *, launch: Launch | None = None, outline: bool = False) -> None:
        self.recipe, self.folder, self.outline = recipe, folder, outline
        self.launch = launch or Launch.of_environment(os.environ)
        self.made: dict[part[Any], Any] = {}

    def _first_process_first(self, task: str) -> AbstractContextManager[Any]:
        """The first process writes the cache, the others read it. An outline belongs to a single process."""
        return nullcontext() if self.outline else self.recipe.training.main_process_first(desc=task)

    @part
    def base(self) -> str:
        """The model to start from: a folder, or its name on the Hub or on ModelScope."""
        name = self.recipe.model.model_name_or_path
        if name != "tiny":
            bare = Path(name).is_dir() and not any((Path(name) / file).is_file() for file in ("config.json", ADAPTER))
            if bare or is_absent_folder(name):
                what = "no model in this folder (no config.json)" if bare else "no such folder"
                remedy = "give the folder of a model, or a Hub id (user/name)"
                raise NerError(what, value=name, place="model_name_or_path", remedy=remedy)
            return name
        with self._first_process_first("making the tiny model"):
            return str(make_tiny(self.folder / "tiny"))

    @part
    def splits(self) -> Splits:
        return read_splits(self.recipe.data)

    @part
    def gold(self) -> list[Example]:
        """The examples to score: validation, then the final test."""
        return [*self.splits.validation, *self.splits.final]

    @part
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.base, self.recipe.model.model_revision)

    @part
    def end_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer; the first one is written in training."""
        return end_token_ids(self.tokenizer)

    @part
    def codec(self) -> Codec:
        data = self.recipe.data
        return CODECS[data.target](self.splits.labels, data.system_prompt)

    @part
    def config(self) -> NerConfig:
        """The ner_config.json of every folder that is saved; the calibration is fitted after training."""
        _ = self.fitting_rows  # raises if there is none
        lengths = zip(self.examples, column(self.rows, "length"), strict=True)
        longest = max(len(example.text) for example, tokens in lengths if tokens <= self.max_length)
        given = self.recipe.data.system_prompt
        return NerConfig(
            self.splits.labels,
            self.codec.default_prompt if given is None else given,
            self.max_new_tokens,
            self.end_token_ids,
            fingerprint(self.splits.train),
            window=max(4, longest),
            target=self.codec.target,
        )

    @part
    def model(self) -> PreTrainedModel:
        given = self.recipe.model
        make = outline_model if self.outline else load_model
        base, lora = self.base, given.lora()
        set_seed(self.recipe.training.seed)  # the Trainer sets it too, but after the adapter is initialized
        return make(base, revision=given.model_revision, attn_implementation=given.attn_implementation, lora=lora)

    @part
    def collator(self) -> PaddedCollator | PrefixSharedCollator:
        return choose_collator(self.model, self.tokenizer.pad_token_id)

    @part
    def context(self) -> int:
        """Tokens that the model can attend to."""
        return self.model.config.get_text_config().max_position_embeddings

    @part
    def max_length(self) -> int:
        """Tokens of the longest row to train on."""
        return min(self.recipe.data.max_length or self.context, self.context)

    @part
    def documents(self) -> Dataset:
        """The train split as it was read, tokenized."""
        return self._tokenize(self.splits.train, "Tokenizing train")

    @part
    def split_rows(self) -> SplitRows:
        """The train split, with the rows over `max_length` as windows."""

        def measure(examples: list[Example]) -> list[int]:
            return list(column(self._tokenize(examples, "Tokenizing windows"), "length"))

        found = split_long(self.splits.train, column(self.documents, "length"), self.max_length, measure)
        if found.documents:
            log.info("Longer than max_length=%s: %s.", f"{self.max_length:,}", found)
        return found

    @property
    def examples(self) -> Sequence[Example]:
        """What `rows` were made from."""
        return self.split_rows.examples

    @part
    def rows(self) -> Dataset:
        """All training rows, those that are too long and could not be split included."""
        split = self.split_rows.documents > 0
        return self._tokenize(self.examples, "Tokenizing windows") if split else self.documents

    @part
    def fitting_rows(self) -> Dataset:
        """The rows to train on: never cut, so those over `max_length` are left out."""
        lengths = list(column(self.rows, "length"))
        fitting = [i for i, length in enumerate(lengths) if length <= self.max_length]
        if not fitting:
            what, limit = "every training row has more tokens", self.max_length
            remedy = "split the texts" + (" or raise max_length" if limit < self.context else "")
            raise NerError(what, value=limit, place="max_length", remedy=remedy)
        return self.rows if len(fitting) == len(lengths) else self.rows.select(fitting)

    @part
    def max_new_tokens(self) -> int:
        """The recipe's, or what the training answers need with a margin, as far as the context has room for it."""
        if given := self.recipe.training.max_new_tokens:
            return given
        longest = max(map(len, column(self.fitting_rows, "answer_ids")))
        room = self.context - max(map(len, column(self.fitting_rows, "prompt_ids")))
        chosen = max(longest, min(STEP * math.ceil(MARGIN * longest / STEP), room))
        log.info("max_new_tokens is set to %d: the longest training answer has %d tokens.", chosen, longest)
        return chosen

    @part
    def gold_windows(self) -> list[tuple[int, Window]]:
        """The windows in which the texts of `gold` are read, as `Extractor` reads them, each with its text's number."""
        length, found = self.config.window, list[tuple[int, Window]]()
        fits = partial(has_room, codec=self.codec, tokenizer=self.tokenizer, limit=self.max_new_tokens)
        for n, example in enumerate(self.gold):
            read = windows_to_read(example.text, length, fits) or [Window(0, len(example.text), 0, len(example.text))]
            found += ((n, window) for window in read)
        return found

    @part
    def gold_parts(self) -> list[Example]:
        """What of `gold` is in each of `gold_windows`."""
        return [cut_out(self.gold[n], window) for n, window in self.gold_windows]

    @part
    def gold_rows(self) -> Dataset:
        return self._tokenize(self.gold_parts, "Tokenizing evaluation")

    @part
    def validation_rows(self) -> Dataset:
        return longest_first(self.gold_rows.select(range(self._first_final)))

    @part
    def final_rows(self) -> Dataset:
        """The rows of the final test; the validation rows if the data set has none."""
        if not self.splits.final:
            return self.validation_rows
        return longest_first(self.gold_rows.select(range(self._first_final, len(self.gold_windows))))

    @property
    def _first_final(self) -> int:
        return sum(n < len(self.splits.validation) for n, _ in self.gold_windows)

    def _tokenize(self, examples: Sequence[Example], task: str) -> Dataset:
        codec, tokenizer = self.codec, self.tokenizer
        with self._first_process_first("tokenizing"):
            return build_dataset(examples, codec, tokenizer, num_proc=self.recipe.data.dataset_num_proc, desc=task)
