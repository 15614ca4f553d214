"""A training before it is begun: its parts, each made when it is first asked for, and none of them heavy.

In: a recipe and how it is launched. Out: its data, tokenizer, token rows, and its model without weights. Knows nothing
of what is checked about them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..contract import NerConfig
from ..data.tokenize import build_dataset, end_of_turn
from ..entities import Example, NerError, fingerprint
from ..inference.loading import load_tokenizer
from .batches.collate import PaddedCollator, PrefixSharedCollator, choose_collator
from .doctor import costs
from .launch import Launch
from .preparation import Splits, read_splits
from .recipe import Recipe
from .tiny import make_tiny

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")


class Unavailable(Exception):
    """A part that a check needs could not be had; its own line says why."""

    def __init__(self, part: str, error: NerError) -> None:
        super().__init__(part)
        self.part, self.error = part, error


class Case:
    """The parts of a training. A property raises `Unavailable` where its part, or one that it needs, cannot be had."""

    def __init__(self, recipe: Recipe, launch: Launch, folder: Path) -> None:
        self.recipe, self.launch, self.folder = recipe, launch, folder
        self._parts: dict[str, Any] = {}

    def _part(self, name: str, make: Callable[[], T]) -> T:
        if name not in self._parts:
            try:
                self._parts[name] = make()
            except NerError as error:
                self._parts[name] = Unavailable(name, error)
        if isinstance(self._parts[name], Unavailable):
            raise self._parts[name]
        return self._parts[name]

    @property
    def base(self) -> str:
        """Where the model lies: its name, or the folder of one made on the spot."""
        name = self.recipe.model.model_name_or_path
        return name if name != "tiny" else self._part("toy", lambda: str(make_tiny(self.folder / "tiny")))

    @property
    def splits(self) -> Splits:
        return self._part("data", lambda: read_splits(self.recipe.data))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._part("tokenizer", lambda: load_tokenizer(self.base, self.recipe.model.model_revision))

    @property
    def model(self) -> PreTrainedModel:
        """An outline, without weights."""
        given = self.recipe.model
        make = costs.outline_model
        options: dict[str, Any] = {"attn_implementation": given.attn_implementation, "lora": given.lora()}
        return self._part("model", lambda: make(self.base, revision=given.model_revision, **options))

    @property
    def collator(self) -> PaddedCollator | PrefixSharedCollator:
        return self._part("collator", lambda: choose_collator(self.model, self.tokenizer.pad_token_id))

    @property
    def stops(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((end_of_turn(self.tokenizer), self.tokenizer.eos_token_id)))

    @property
    def config(self) -> NerConfig:
        """The ner_config.json that the training would write."""
        data, splits = self.recipe.data, self.splits
        limit = self.recipe.training.max_new_tokens
        return NerConfig(splits.labels, data.system_prompt, limit, self.stops, fingerprint(splits.train))

    @property
    def rows(self) -> Dataset:
        return self._part("rows", lambda: self._tokenized(self.splits.train))

    @property
    def gold(self) -> list[Example]:
        return [*self.splits.validation, *self.splits.final]

    @property
    def to_score(self) -> Dataset:
        return self._part("rows to score", lambda: self._tokenized(self.gold))

    def _tokenized(self, examples: Sequence[Example]) -> Dataset:
        return build_dataset(examples, self.config.codec(), self.tokenizer, num_proc=self.recipe.data.dataset_num_proc)

    @property
    def context(self) -> int:
        return self.model.config.get_text_config().max_position_embeddings

    @property
    def max_length(self) -> int:
        return min(self.recipe.data.max_length or self.context, self.context)

    @property
    def processes(self) -> int:
        """That share the rows of a step."""
        return max(self.launch.num_processes, self.recipe.training.n_gpu, 1)

    @property
    def use_cpu(self) -> bool:
        """Whether the recipe says so; on a machine without GPUs it may have been read as if it did."""
        return self.recipe.training.use_cpu and bool(self.recipe.values.get("use_cpu"))

    @property
    def is_for_gpus(self) -> bool:
        """Whether it is meant for GPUs, be there any here or not."""
        args, launch = self.recipe.training, self.launch
        asked = (args.use_cpu and not self.use_cpu) or launch.num_processes > 1 or launch.mixed_precision != "no"
        return asked and not self.use_cpu and not launch.use_cpu

    @property
    def bf16(self) -> bool:
        return self.recipe.training.bf16 or (not self.recipe.training.fp16 and self.launch.mixed_precision == "bf16")


@contextmanager
def case_of(recipe: Recipe, launch: Launch | None = None) -> Iterator[Case]:
    """A case and a folder that goes with it, for the toy model and for what is written to be read again."""
    with tempfile.TemporaryDirectory(prefix="qwen_ner_doctor_") as folder:
        yield Case(recipe, launch or Launch.of_environment(os.environ), Path(folder))
