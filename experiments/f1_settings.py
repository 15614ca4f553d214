"""The ways to train that f1_budget.py compares: each a `Setting`, trained on the same rows in the same order.

In: a setting's name, a model, rows. Out: the trained model, and the prompt it was trained with. What lost stands here
and nowhere in the package.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from f1_transforms import FGM, RDrop
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.data.analysis.audit import audit
from qwen_ner.data.negatives import draw, entity_free
from qwen_ner.data.tokenize import build_dataset, end_token_ids
from qwen_ner.entities import Example, LabelSet
from qwen_ner.inference.loading import load_tokenizer
from qwen_ner.inline import InlineCodec
from qwen_ner.training.batches.collate import choose_collator
from qwen_ner.training.batches.reduced_head import tokens_of
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import add_adapter, load_model
from qwen_ner.training.recipe import NerTrainingArguments

GUIDELINE = "类别：\n{labels}"
LONGEST_ANSWER = 128
CUT = 50


@dataclass(frozen=True)
class Setting:
    """One way to train; the defaults are the plain LoRA recipe, on one process.

    `trainer` is ours, trl (its SFTTrainer, prompt and completion), tutorial (a loop that pads all rows to one length,
    with a constant learning rate, its prompts cut at 50 tokens) or mended (the same without the cut). `rank` None
    trains all weights. `layers` "upper" gives the upper half of them an adapter, so that nothing goes backward through
    the lower one. `variant` is a switch of peft's LoraConfig, or a way of its init_lora_weights; `ratio` the learning
    rate of B to that of A (LoRA+, arXiv 2402.12354). `bf16` is the recipe's: products in bfloat16, weights in float32.
    `order` "text" writes the labels by their first place in the text, as `Codec` does; "" in the label set's order;
    "inline" writes the text with its entities marked.
    `head` "seen" makes the logits of those tokens alone that the training rows have, beside an adapter, as `NerTrainer`
    does; "" of all tokens. `fgm` is the ε of `FGM`, `rdrop` the α of `RDrop`, `dropout` LoRA's. The last `decay` steps
    bring the learning rate down to 0 in a line, if `scheduler` is warmup_stable_decay; `sampling` "random" shuffles the
    rows anew in each epoch.
    """

    trainer: str = "ours"
    learning_rate: float = 4e-4
    batch: int = 10
    rank: int | None = 16
    targets: tuple[str, ...] | str = "all-linear"
    layers: str = ""
    variant: str = ""
    definitions: bool = False
    twice: bool = False
    prefix_lm: bool = False
    order: str = ""
    negatives: float = 0.0
    loss: str = ""
    neftune: float = 0.0
    averaged: bool = False
    audited: bool = False
    weight_decay: float = 0.01
    scheduler: str = "cosine"
    ratio: float = 1.0
    rich: bool = False
    bf16: bool = True
    head: str = ""
    fgm: float = 0.0
    rdrop: float = 0.0
    dropout: float = 0.0
    warmup: float = 0.05
    decay: int = 0
    sampling: str = "sequential"

    @property
    def cost(self) -> str:
        """Settings of equal cost take the same seconds a row."""
        names = [
            "trainer",
            "batch",
            "rank",
            "targets",
            "layers",
            "variant",
            "definitions",
            "twice",
            "rich",
            "bf16",
            "head",
        ]
        # Only where they are set, so that the rates that were measured before them stay known.
        later = [name for name in ("fgm", "rdrop", "dropout") if getattr(self, name)]
        later += ["inline"] if self.order == "inline" else []
        return " ".join([*(f"{name}={getattr(self, name)}" for name in names), *later])


LEVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("the defaults of `Setting`: the LoRA recipe before the levers were measured", {}),
    "ours": ("the LoRA recipe as it is: `seen+text-order`", {"head": "seen", "order": "text"}),
    "tutorial": ("the tutorial's loop as written, prompts cut at 50", {"trainer": "tutorial", "scheduler": "constant"}),
    "mended": ("the tutorial's loop without the cut", {"trainer": "mended", "scheduler": "constant"}),
    "trl": ("TRL's SFTTrainer, padding-free", {"trainer": "trl"}),
    "constant": ("a constant learning rate", {"scheduler": "constant"}),
    "float32": ("products in float32", {"bf16": False}),
    "rank8": ("LoRA of rank 8, alpha 16", {"rank": 8}),
    "rank64": ("LoRA of rank 64, alpha 128", {"rank": 64}),
    "attention": ("adapters in attention alone", {"targets": ("q_proj", "k_proj", "v_proj", "o_proj")}),
    "mlp": ("adapters in the MLPs alone", {"targets": ("gate_proj", "up_proj", "down_proj")}),
    "upper": ("adapters in the upper half of the layers alone", {"layers": "upper"}),
    "loraplus": ("LoRA+: B learns 16 times as fast as A, at 1e-4", {"ratio": 16.0, "learning_rate": 1e-4}),
    "rslora": ("rank-stabilised LoRA", {"variant": "use_rslora"}),
    "dora": ("DoRA", {"variant": "use_dora"}),
    "pissa": ("PiSSA initialisation, 4 iterations", {"variant": "pissa_niter_4"}),
    "full": ("all weights, at 4e-5", {"rank": None, "learning_rate": 4e-5}),
    "neftune": ("NEFTune, alpha 5", {"neftune": 5.0}),
    "definitions": ("the labels' descriptions in the prompt", {"definitions": True}),
    "twice": ("the text twice in the user's turn", {"twice": True}),
    "prefix-lm": ("each token of a prompt sees all of it", {"prefix_lm": True}),
    "frequent-first": ("the label first that train has most", {"order": "labels"}),
    "long-first": ("the surfaces of a label by falling length", {"order": "surfaces"}),
    "negatives": ("a tenth more rows, without entities", {"negatives": 0.1}),
    "smoothed": ("a tenth of the target spread over the tokens", {"loss": "smoothed"}),
    "focal": ("focal loss", {"loss": "focal"}),
    "smoothed-keys": ("a tenth of the target spread over the tokens, where it is a label", {"loss": "smoothed keys"}),
    "focal-keys": ("focal loss where the target is a label", {"loss": "focal keys"}),
    "averaged": ("the mean of the last third of the steps", {"averaged": True}),
    "audited": ("without the rows that `audit` doubts", {"audited": True}),
    "rich": ("rows with two entities at least", {"rich": True}),
    "seen": ("logits of the tokens of the training rows alone", {"head": "seen"}),
    "chinese": ("labels written in Chinese", {"order": "chinese"}),
    "text-order": ("labels in the order of the text", {"order": "text"}),
    "batch5": ("5 rows a step", {"batch": 5}),
    "batch30": ("30 rows a step", {"batch": 30}),
    "fgm": ("FGM: half of the loss where embeddings are moved by 0.1 an example", {"fgm": 0.1}),
    "rdrop": ("R-Drop, alpha 4, with a dropout of 0.1", {"rdrop": 4.0, "dropout": 0.1}),
    "dropout": ("a dropout of 0.05 in the adapters", {"dropout": 0.05}),
    "shuffled": ("rows shuffled anew in each epoch", {"sampling": "random"}),
    "inline": ("the text again, with its entities marked", {"order": "inline"}),
}
"""What each changes of a `Setting`, in words and in fields."""


def setting(name: str) -> Setting:
    """The setting of a name: levers and fields joined by +, the later winning.

    >>> setting("twice+rank8+learning_rate=8e-4").learning_rate
    0.0008
    """
    changes: dict[str, Any] = {}
    for part in name.split("+"):
        key, equals, value = part.partition("=")
        if not equals and part not in LEVERS:
            raise SystemExit(f"{part}: no such lever; there are {', '.join(LEVERS)}, and field=value")
        changes |= {key: ast.literal_eval(value)} if equals else LEVERS[part][1]
    return replace(Setting(), **changes)


class Twice(Codec):
    """The text stands twice in the user's turn: over the second copy, a causal model has read the whole of it."""

    def messages(self, text: str, *, system_turn: bool = True) -> list[dict[str, str]]:
        return super().messages(f"{text}\n{text}", system_turn=system_turn)


class LabelOrder(Codec):
    """The labels in the label set's order, as the target had them before `text-order` was measured."""

    def encode(self, example: Example) -> str:
        tree = json.loads(super().encode(example))
        return json.dumps(
            {label: tree[label] for label in self.labels.names if label in tree},
            ensure_ascii=False,
            separators=(",", ":"),
        )


class LongFirst(LabelOrder):
    """The surfaces of a label by falling length."""

    def encode(self, example: Example) -> str:
        tree = json.loads(super().encode(example))
        ordered = {label: sorted(surfaces, key=len, reverse=True) for label, surfaces in tree.items()}
        return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))


class Chinese(LabelOrder):
    """Labels by the first word of their description: 地点 for address."""

    @property
    def words(self) -> dict[str, str]:
        return {label.name: label.description.partition("：")[0] for label in self.labels}

    def encode(self, example: Example) -> str:
        tree = json.loads(super().encode(example))
        return json.dumps(
            {self.words[label]: surfaces for label, surfaces in tree.items()},
            ensure_ascii=False,
            separators=(",", ":"),
        )

    def decode(self, text: str, completion: str, **how: Any) -> Any:
        for label, word in self.words.items():
            completion = completion.replace(f'"{word}":', f'"{label}":')
        return super().decode(text, completion, **how)


def codec_of(chosen: Setting, labels: LabelSet, train: Sequence[Example]) -> Codec:
    if chosen.order == "labels":
        often = Counter(label for example in train for label, _ in example.surfaces)
        labels = LabelSet(tuple(sorted(labels, key=lambda label: -often[label.name])))
    orders = {"text": Codec, "surfaces": LongFirst, "chinese": Chinese, "inline": InlineCodec}
    order = orders.get(chosen.order, LabelOrder)
    kind = type("Chosen", (Twice, order), {}) if chosen.twice else order
    prompt = order.default_prompt
    return kind(labels, prompt + GUIDELINE if chosen.definitions else prompt)


def rows_of(chosen: Setting, codec: Codec, tokenizer: Any, train: Sequence[Example], seed: int) -> Any:
    """The rows to train on, tokenized, in the order in which they are taken: a shuffle of the seed's."""
    examples = list(train)
    if chosen.audited:
        doubted = {finding.row for finding in audit(examples) if finding.score >= 0.5}
        examples = [example for n, example in enumerate(examples) if n not in doubted]
    if chosen.rich:  # rows with two entities at least
        examples = [example for example in examples if len(example.entities) > 1]
    if chosen.negatives:
        surfaces = (entity.text for example in train for entity in example.entities)
        examples += draw(entity_free(train, surfaces), round(chosen.negatives * len(examples)), seed)
    random.Random(seed).shuffle(examples)
    return build_dataset(examples, codec, tokenizer)


def train(chosen: Setting, base: Path, rows: Any, codec: Codec, steps: int, seed: int, folder: Path) -> Any:
    """The model after so many steps. It goes on from a checkpoint in `folder` where there is one."""
    set_seed(seed)
    model = load_model(str(base))
    model = add_adapter(model, lora_of(chosen, model.config.num_hidden_layers))
    if chosen.trainer == "ours":
        train_ours(chosen, model, rows, codec, steps, seed, folder, load_tokenizer(base))
    else:
        from train_rivals import train_static, train_trl

        options = argparse.Namespace(
            model=base, steps=steps - 1, batch=chosen.batch, seconds=float("inf"), bf16=chosen.bf16,
            learning_rate=chosen.learning_rate, scheduler=chosen.scheduler, warmup_steps=0.05, folder=folder,
        )  # fmt: skip
        some = [rows[n % len(rows)] for n in range(steps * chosen.batch)]
        if chosen.trainer == "tutorial":
            some = [{**row, "prompt_ids": row["prompt_ids"][:CUT]} for row in some]
        (train_trl if chosen.trainer == "trl" else train_static)("trl-padding-free", model, some, options, [])
    return model


def lora_of(chosen: Setting, layers: int) -> dict[str, Any] | None:
    if chosen.rank is None:
        return None
    targets = chosen.targets if isinstance(chosen.targets, str) else list(chosen.targets)
    lora = {"r": chosen.rank, "lora_alpha": 2 * chosen.rank, "lora_dropout": chosen.dropout, "target_modules": targets}
    if chosen.layers == "upper":  # peft takes no list of layers for "all-linear"
        lora["target_modules"] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        lora["layers_to_transform"] = list(range(layers // 2, layers))
    if chosen.variant.startswith("use_"):
        lora[chosen.variant] = True
    elif chosen.variant:
        lora["init_lora_weights"] = chosen.variant
    return lora


def train_ours(
    chosen: Setting, model: Any, rows: Any, codec: Codec, steps: int, seed: int, folder: Path, tokenizer: Any
) -> None:
    args = NerTrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=chosen.batch, seed=seed,
        learning_rate=chosen.learning_rate, lr_scheduler_type=chosen.scheduler, warmup_steps=chosen.warmup,
        lr_scheduler_kwargs={"num_decay_steps": chosen.decay, "decay_type": "linear"} if chosen.decay else {},
        max_grad_norm=1.0, weight_decay=chosen.weight_decay, neftune_noise_alpha=chosen.neftune or None,
        train_sampling_strategy=chosen.sampling, eval_strategy="no", load_best_model_at_end=False, report_to="none",
        # On a GPU 50 steps take a second, and a checkpoint as long: the last one only.
        save_strategy="steps", save_steps=steps if torch.cuda.is_available() else 50, save_total_limit=1,
        logging_steps=10, bf16=chosen.bf16, use_cpu=not torch.cuda.is_available(),
        step_transforms=["reduced_head"] if chosen.head == "seen" else [],
    )  # fmt: skip
    if chosen.loss:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        name, _, keys = chosen.loss.partition(" ")
        losses = {"smoothed": smoothed, "focal": focal}[name]
        if keys:
            losses = where(label_tokens(codec, tokenizer, rows, narrow=chosen.head == "seen"), losses)
        base.loss_function = loss_over(losses)
    optimizer = None
    if chosen.ratio != 1:
        from peft.optimizers import create_loraplus_optimizer

        optimizer = create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=chosen.learning_rate, loraplus_lr_ratio=chosen.ratio, weight_decay=0.0
        )
    trainer = NerTrainer(
        model=model, optimizers=(optimizer, None), args=args, processing_class=tokenizer, train_dataset=rows,
        ner_config=config_of(codec, tokenizer),
        data_collator=collator_of(chosen, model, tokenizer),
    )  # fmt: skip
    if chosen.fgm:
        trainer.step.transforms.append(FGM(args, chosen.fgm))
    if chosen.rdrop:
        trainer.step.transforms.append(RDrop(args, chosen.rdrop))
    if chosen.averaged:
        trainer.add_callback(Average(model, steps))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.is_dir() else None)


def collator_of(chosen: Setting, model: Any, tokenizer: Any) -> Callable[..., dict[str, Any]]:
    collator = choose_collator(model, tokenizer.pad_token_id)
    return WholePrompt(collator) if chosen.prefix_lm else collator


@dataclass(frozen=True)
class WholePrompt:
    """A `PrefixSharedCollator` whose examples see the whole of their own prompt from each of its tokens.

    A prefix language model (Raffel et al., "Exploring the Limits of Transfer Learning", arXiv 1910.10683, 3.2.1); of
    sequence labelling by decoders: "Looking Right is Sometimes Right" (arXiv 2401.14556).
    """

    causal: Any

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = self.causal(rows)
        longest, width = batch["own"].shape[1], batch["attention_mask"].shape[-1]
        prefix = width - longest
        prompts = torch.tensor([len(row["prompt_ids"]) - prefix for row in rows])[:, None]
        inside = torch.nn.functional.pad(torch.arange(longest) < prompts, (prefix, 0), value=True)
        whole = inside[:, None, prefix:, None] & inside[:, None, None, :]
        return {**batch, "attention_mask": batch["attention_mask"] | whole}


def read_whole_prompts(extractor: Any) -> None:
    """Have the extractor's model see prompts as `WholePrompt` does: at the step that reads them nothing is hidden."""

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        if mask is not None and cache.get_seq_length() == (shared := extractor.backend.prefix.cache.get_seq_length()):
            if mask.ndim == 4:  # prompts packed in one row, 0 where a token sees another: now that one sees it, too
                own = mask[..., shared:]
                mask = torch.cat([mask[..., :shared], own.maximum(own.mT)], -1)
            else:
                mask = mask.bool()[:, None, None, :].expand(-1, 1, kwargs["input_ids"].shape[1], -1)
            kwargs = {**kwargs, "attention_mask": mask}
        return args, kwargs

    extractor.model.register_forward_pre_hook(before, with_kwargs=True)


def config_of(codec: Codec, tokenizer: Any) -> NerConfig:
    ends = end_token_ids(tokenizer)
    return NerConfig(codec.labels, codec.system_prompt, LONGEST_ANSWER, ends, target=codec.target)


def smoothed(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Against targets of which a tenth is spread over the vocabulary."""
    return cross_entropy(logits, target, reduction="none", label_smoothing=0.1)


def focal(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Lin et al., "Focal Loss for Dense Object Detection" (arXiv 1708.02002): what is known already counts less."""
    loss = cross_entropy(logits, target, reduction="none")
    return (1 - (-loss).exp()) ** 2 * loss


def label_tokens(codec: Codec, tokenizer: Any, rows: Any, *, narrow: bool) -> torch.Tensor:
    """The tokens that labels are written in (n,), of CLUENER's by a Qwen one each; `narrow`: their places among the
    tokens of the rows."""
    words = tokenizer(list(codec.labels.names), add_special_tokens=False).input_ids
    ids = torch.tensor([token for word in words for token in word])
    return torch.isin(tokens_of(rows), ids).nonzero().flatten() if narrow else ids


def where(tokens: torch.Tensor, losses: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`losses` of the targets that are among `tokens` (n,), and cross-entropy of the others."""

    def each(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        chosen = torch.isin(target, tokens.to(target.device))
        return torch.where(chosen, losses(logits, target), cross_entropy(logits, target, reduction="none"))

    return each


def loss_over(losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A model's `loss_function` that adds up `losses` of each token."""

    def loss(
        logits: torch.Tensor, labels: Any, vocab_size: int, *, shift_labels: torch.Tensor,
        num_items_in_batch: Any = None, **options: Any,
    ) -> torch.Tensor:  # fmt: skip
        each = losses(logits.flatten(0, -2).float(), shift_labels.flatten())
        return each.sum() / (len(each) if num_items_in_batch is None else num_items_in_batch)

    return loss


class Average(TrainerCallback):
    """The trained weights become their mean over the last third of the steps."""

    def __init__(self, model: Any, steps: int) -> None:
        self.first, self.number = steps - steps // 3, 0
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.sums = [torch.zeros_like(p) for p in self.weights]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step > self.first:
            self.number += 1
            torch._foreach_add_(self.sums, [p.detach() for p in self.weights])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            for p, total in zip(self.weights, self.sums, strict=True):
                p.copy_(total / self.number)
