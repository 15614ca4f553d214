"""A recipe for a data set that has none yet.

In: a data set. Out: the text of a recipe that trains on it, with settings that were measured on CLUENER. Knows nothing
of the model but its name.
"""

from __future__ import annotations

import itertools
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..codec import Codec
from ..data.analysis.stats import Lengths
from ..data.overview import Found, one_line, overview
from ..entities import Example, LabelSet, NerError
from ..inference.windows import windows
from ..inline import InlineCodec
from .arguments import PATIENT_STEPS
from .recipe import CLOSING, LAUNCHER_LINE, QUOTES

FEW_ROWS = 2_000
"""Below this many, small steps pay: 10 rows at 4e-4 were measured, with 1,180 rows and more."""

FEW_EPOCHS, FEW_STEPS, MOST_EPOCHS, EPOCHS, STEPS = 10, 50, 30, 3, 500
"""Few rows are seen `FEW_EPOCHS` times: 20 epochs of 100 rows of CLUENER were no better. Very few rows are seen more
often, for `FEW_STEPS` steps. Many rows are seen `EPOCHS` times, as CLUENER's were, or for as many `STEPS`."""

PACK = 8_000
"""Characters of the texts computed at once: 60 rows of CLUENER have 2,300, 240 of them take 13 GiB with LoRA."""

COPIED = 200
"""Characters that a text to copy may have: a copy takes time, and those that were measured have 77 at most."""

UNMARKED = 0.01
"""The share of the entities that may overlap another one, and then cannot be marked in a copy."""

LONG = 2_000
"""Characters from which on a text is a document: it is trained on in windows, whose rows take memory as texts do."""

SHOWN = 120
"""Characters of an example that is shown after training, at most."""

LORA = """lora_r: 16                             # on every linear layer but the head
lora_alpha: 32
lora_dropout: {dropout}
"""

INLINE = "target: inline                         # slower than json; with few rows its f1 was 4 to 20 points higher\n"

NO_BF16 = "# bf16: true                           # on a GPU that has it (Ampere or later); this machine has none"

TEMPLATE = """# A training on the data below. `qwen-ner init` wrote this recipe: read it, and change what you like.
#
# Data
{overview}
#
# Hardware   One GPU of 24 GB, or a CPU and patience; `qwen-ner doctor` estimates memory.
# Launch     qwen-ner train {place}; on several GPUs accelerate launch {place}
# Override   qwen-ner train {place} --learning_rate 2e-4 --output_dir outputs/lr2e-4
# Measured   Not on these data. On CLUENER: documentation, Models, batch size and memory.
#
# The next line lets `accelerate launch` run this file as Python; to qwen-ner it is YAML.
{launcher}

# Model
model_name_or_path: {model}
{lora}
# Data
dataset: {dataset}
# Delete a line to exclude a label. A description may follow a name that does not explain itself; the prompt includes it
# if it asks for the labels:
# system_prompt: "{prompt}类别：\\n{{labels}}"
labels:
{labels}
{target}{limits}examples:
{examples}

{steps}
lr_scheduler_type: cosine
warmup_steps: 0.05                     # below 1 it is a share of all steps
weight_decay: 0.01
max_grad_norm: 1.0
{bf16}
seed: 42

# Evaluation: generate, score, keep the best
eval_strategy: epoch
eval_on_start: true
save_strategy: epoch
metric_for_best_model: f1
load_best_model_at_end: true
per_device_eval_batch_size: 64

# Logging
output_dir: outputs/{name}
run_name: {name}
logging_steps: 10
report_to: none                        # or wandb, tensorboard
{closing}
"""


def recipe_text(found: Found, path: Path, model: str, *, bf16: bool = False) -> str:
    """The recipe, to be written to `path`: YAML, and Python for `accelerate launch`, whatever the data hold.

    Its output folder is one that is not there yet. `bf16` says whether this machine's GPU has it.
    """
    stem = re.sub(r"[^\w.-]+", "-", Path(found.dataset).resolve().stem).strip("-.") or "run"
    names = (f"{stem}-{n}" if n > 1 else stem for n in itertools.count(1))
    name = next(name for name in names if not Path("outputs", name).exists())
    toy = model == "tiny"
    inline = not toy and copies_pay(found.train, found.labels())
    return TEMPLATE.format(
        overview="\n".join(f"#   {line}".rstrip() for line in overview(found)),
        place=one_line(shlex.quote(str(path))),
        launcher=LAUNCHER_LINE,
        model=_quoted(model),
        lora="" if toy else LORA.format(dropout=0.05 if len(found.train) < FEW_ROWS else 0.1),
        dataset=_quoted(found.dataset),
        labels="\n".join(f'  {_quoted(label)}: ""' for label in found.labels()),
        target=INLINE if inline else "",
        prompt=(InlineCodec if inline else Codec).default_prompt,
        limits=_limits(found),
        examples="\n".join(f"  - {_quoted(text)}" for text in _sentences(found)),
        steps=_steps(found, toy=toy),
        bf16="bf16: true" if bf16 else NO_BF16,
        name=name,
        closing=CLOSING,
    )


def copies_pay(examples: Sequence[Example], labels: Sequence[str]) -> bool:
    """Whether `target: inline` is likely to score higher: few rows, short texts, and hardly an entity lost."""
    if len(examples) >= FEW_ROWS or _length(examples) > COPIED:
        return False
    try:
        codec = InlineCodec(LabelSet.of(labels))
    except NerError:
        return False
    unmarked = sum(codec.unwritten(example) for example in examples)
    return unmarked <= UNMARKED * sum(len(example.entities) for example in examples)


def _length(examples: Sequence[Example]) -> float:
    """Characters that nine of ten texts have at most."""
    return Lengths.of((len(example.text), 0) for example in examples).quantile(0.9)


def _limits(found: Found) -> str:
    lines = []
    if found.repair:
        lines.append("repair: true                           # annotations out of order are mended as the log lists\n")
    if found.held_out:
        lines.append(f"validation_rows: {found.held_out:<22}# held out of train to choose the best checkpoint\n")
    if any(len(example.text) > LONG for example in found.train):
        lines.append("max_length: 2048                       # tokens; longer rows are split between sentences\n")
    return "".join(lines)


def _steps(found: Found, *, toy: bool) -> str:
    """The learning rate, the patience, and the rows of a step, which long texts divide into several packs."""
    rows, rate, why = 60, "6e-4", "as on CLUENER"
    few = len(found.train) < FEW_ROWS
    if toy:
        rows, rate, why = 16, "3e-3", "for the toy"
    elif few:
        rows, rate, why = 10, "4e-4", "the best of three on CLUENER"
    an_epoch = math.ceil((len(found.train) - found.held_out) / rows)
    patience = max(5, math.ceil(PATIENT_STEPS / an_epoch))
    epochs, end = MOST_EPOCHS, "early stopping ends it" if patience < MOST_EPOCHS else "so few rows are seen often"
    if not toy:
        least, steps, most = (FEW_EPOCHS, FEW_STEPS, MOST_EPOCHS) if few else (EPOCHS, STEPS, FEW_EPOCHS)
        epochs = min(most, max(least, math.ceil(steps / an_epoch)))
        end = f"{epochs * an_epoch:,} steps"
    long = min(LONG, _length(found.train))
    stop = f"early_stopping_patience: {patience:<14}# evaluations, one per epoch, that are no better\n"
    pack = max(size for size in range(1, rows + 1) if rows % size == 0 and (size == 1 or size * long <= PACK))
    return f"""# Optimization: {pack} rows × {rows // pack} × one process = {rows} rows per step
learning_rate: {rate:<24}# {why}
num_train_epochs: {epochs:<21}# at most; {end}
{stop if patience < epochs else ""}per_device_train_batch_size: {pack}
gradient_accumulation_steps: {rows // pack}"""


def _sentences(found: Found) -> list[str]:
    """Three texts of about the median length, with entities where there are such; of train if there is no other split.

    Of a long one it is what comes first.
    """
    rows = found.splits.get("dev") or found.splits.get("test") or found.train
    middle = Lengths.of((len(example.text), 0) for example in rows).quantile(0.5)
    ranked = sorted(rows, key=lambda example: (not example.entities, abs(len(example.text) - middle)))
    texts = (example.text[: next(windows(example.text, SHOWN)).end] for example in ranked)
    return list(dict.fromkeys(texts))[:3]


def _quoted(text: str) -> str:
    """A YAML scalar on one line that may stand between Python's triple quotes."""
    plain: str = yaml.safe_dump([text], allow_unicode=True, width=math.inf)[2:-1]
    if len(plain.splitlines()) == 1 and QUOTES not in plain:
        return plain
    return str(yaml.safe_dump([text], allow_unicode=True, width=math.inf, default_style='"'))[2:-1]
