"""One run of one rival of train_speed.py, in a process of its own: its steps timed, its FLOPs counted, its memory."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from common import peak_memory_of_process
from train_rivals import LORA, train_dynamic, train_ours, train_static, train_trl


def worker(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train `options.steps` + 1 steps as rival `name` and say how long each took."""
    if name.startswith("ours"):  # as `qwen-ner train` does
        from qwen_ner.training.batches.cpu.malloc import set_pages

        set_pages()
    import torch

    from qwen_ner.training.model import load_model

    torch.manual_seed(0)
    rival = name.removesuffix("-guide")
    rows = read_rows(options, guideline=options.guideline if name.endswith("-guide") else 0)
    model = load_model(options.model, lora=None if options.full else LORA)
    dtype = torch.bfloat16 if options.bf16 and torch.cuda.is_available() else torch.float32
    rate = matrix_rate(model, dtype)
    log: list[tuple[float, float, int]] = []  # (seconds, loss, examples) of each step
    train = {"static": train_static, "dynamic": train_dynamic, "ours": train_ours}.get(rival, train_trl)
    computed = train(rival, model, rows, options, log)
    rate = max(rate, matrix_rate(model, dtype))  # beside other work the machine may have been slower before than during
    timed = log[1:]
    examples = options.batch
    flops = count_flops(model, computed, options.full)
    return {
        "row_seconds": [seconds / count for seconds, _, count in timed],
        "useful": statistics.mean(
            len(r["prompt_ids"]) + len(r["answer_ids"]) for r in rows[: examples * (options.steps + 1)]
        ),
        "first_loss": log[0][1],
        "memory": peak_memory_of_process()
        if not torch.cuda.is_available()
        else torch.cuda.max_memory_allocated() / 2**30,
        "peak": flops / statistics.median(seconds for seconds, _, _ in timed) / rate,
    }


def exactness(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Loss and gradients of a shared batch in float32, without dropout, against its rows one by one.

    Differences are relative: the loss's to the loss, the gradients' greatest to the greatest gradient. `gradient` is
    against the rows in float32, which round too; `gradient to float64` is against the rows in float64, and
    `rows' gradient to float64` says how far the rows in float32 are from that. Adapters are moved off their start
    first, where half of them is zero and has no gradient to compare.
    """
    import torch

    from qwen_ner.training.batches.collate import PaddedCollator, PrefixSharedCollator, choose_collator
    from qwen_ner.training.model import load_model

    torch.manual_seed(0)
    model = load_model(options.model, lora=None if options.full else LORA).eval()
    for weight_name, weight in model.named_parameters():
        if "lora_B" in weight_name:
            torch.nn.init.normal_(weight, std=0.01)
    rows = read_rows(options, guideline=0)[: options.batch]
    tokens = sum(len(row["answer_ids"]) for row in rows)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)

    def passed(batches: list[dict[str, torch.Tensor]]) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        total = 0.0
        for batch in batches:
            loss = model(**{key: tensor.to(device) for key, tensor in batch.items()}, num_items_in_batch=tokens).loss
            loss.backward()
            total += loss.item()
        return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    shared = choose_collator(model, 0)
    assert isinstance(shared, PrefixSharedCollator), "this model cannot share prefixes"
    one_by_one = [PaddedCollator(0)([row]) for row in rows]
    loss, ours = passed([shared(rows)])
    rows_loss, theirs = passed(one_by_one)
    model.double()
    _, exact = passed(one_by_one)
    assert ours.keys() == theirs.keys() == exact.keys()

    def apart(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
        greatest = max(float(gradient.abs().max()) for gradient in expected.values())
        return max(float((found[name] - expected[name]).abs().max()) for name in expected) / greatest

    return {
        "loss": abs(loss - rows_loss) / rows_loss,
        "gradient": apart(ours, theirs),
        "gradient to float64": apart(ours, exact),
        "rows' gradient to float64": apart(theirs, exact),
        "tensors": len(exact),
    }


def read_rows(options: argparse.Namespace, guideline: int) -> list[dict[str, Any]]:
    """Tokenized training rows, enough for all steps; with a system prompt of `guideline` tokens if that is not 0."""
    from qwen_ner.codec import SYSTEM_PROMPT, Codec
    from qwen_ner.data.datasets import read_dataset
    from qwen_ner.data.tokenize import build_dataset
    from qwen_ner.entities import CLUENER
    from qwen_ner.inference.loading import load_tokenizer

    tokenizer = load_tokenizer(options.model)
    prompt = SYSTEM_PROMPT
    if guideline:
        text = SYSTEM_PROMPT + "".join(f"{label.name}是{label.description}。" for label in CLUENER) * 40
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:guideline]
        prompt = tokenizer.decode(ids)
    examples = read_dataset(options.data, "train", labels=CLUENER)[: 2 * options.batch * (options.steps + 2)]
    return build_dataset(examples, Codec(CLUENER, prompt), tokenizer).to_list()


def matrix_rate(model: Any, dtype: Any) -> float:
    """FLOP/s of torch.mm in `dtype` at the shapes of the model's linear layers: medians, weighted.

    With 1,024 tokens on a CPU, with 8,192 on a GPU, which so few as 1,024 do not fill.
    """
    import torch

    weights = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora" not in name
    ]
    shapes = {tuple(weight.shape) for weight in weights if weight.shape[0] < 50_000}
    device, flops, seconds = torch.device("cuda" if torch.cuda.is_available() else "cpu"), 0.0, 0.0
    tokens = 8192 if device.type == "cuda" else 1024
    for out, into in shapes:
        left, right = (torch.randn(shape, device=device, dtype=dtype) for shape in ((tokens, into), (into, out)))
        times = []
        for _ in range(8):
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            torch.mm(left, right)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        count = sum(tuple(weight.shape) == (out, into) for weight in weights)
        flops += count * 2 * tokens * into * out
        seconds += count * statistics.median(times)
    return flops / seconds


def count_flops(model: Any, computed: dict[str, float], full: bool) -> float:
    """FLOPs of one step, by the formula above, from the (tokens, pairs, logits) that it computed."""
    config = model.config
    linear = model.num_parameters(exclude_embeddings=True)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = head * config.num_attention_heads * config.num_hidden_layers
    return (
        computed["tokens"] * linear * (6 if full else 4)
        + computed["pairs"] * width * 12
        + computed["logits"] * config.hidden_size * config.vocab_size * 4
    )
