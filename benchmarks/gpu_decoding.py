"""Decoding speed for on_gpu.py: whole answers, and a single step with and without a CUDA graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from common import claim
from gpu_models import Device, make_model, make_rows

ANSWER = 14
"""Mean tokens of an answer in CLUENER; "sentences/s" counts in these."""

Result = tuple[dict[str, Any], list[dict[str, Any]]]


def median_seconds(device: Device, call: Callable[[], Any], warm: int, times: int) -> float:
    for _ in range(warm):
        call()
    seconds = []
    for _ in range(times):
        device.synchronize()
        start = time.perf_counter()
        call()
        device.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def decode(device: Device) -> Iterator[Result]:
    """Milliseconds a decoding step. Random weights never end an answer, so every row takes every step."""
    from qwen_ner.inference.backends.torch import BATCH_TOKENS

    rows, new = (16, 6) if device.tiny else (512, 24)
    prompts = [row["prompt_ids"] for row in make_rows(device, rows)]
    adapter = make_model(device, lora=True).eval()
    yield time_generate(device, adapter, prompts[: rows // 8], new, BATCH_TOKENS, "adapter, float32, autocast")
    del adapter
    device.empty_cache()
    merged = make_model(device, lora=False, dtype=torch.bfloat16).eval()
    for trained, weights in ((True, "all trained, bfloat16"), (False, "merged, bfloat16")):
        merged.requires_grad_(trained)  # what is trained has no CUDA graph
        for budget in (BATCH_TOKENS, 1 << 20):
            yield time_generate(device, merged, prompts, new, budget, weights)


def time_generate(device: Device, model: Any, prompts: list[list[int]], new: int, budget: int, weights: str) -> Result:
    from qwen_ner.inference.backends.torch import TorchBackend
    from qwen_ner.training.batches.collate import choose_collator

    batches: list[int] = []
    with device.autocast("autocast" in weights):
        if "adapter" in weights:
            choose_collator(model, 0)  # a model attends in evaluations as it was set to in training
        backend = TorchBackend(model, [2], 0, budget)
        backend.complete(prompts, 4)
        device.synchronize()
        start = time.perf_counter()
        backend.complete(prompts, new, on_rows=batches.append)
        device.synchronize()
        seconds = time.perf_counter() - start
    return {
        "weights": weights,
        "graphs": len(backend.decoder.graphs) if backend.decoder else 0,
        "batch tokens": budget,
        "rows a batch": batches,
        "ms a step": 1e3 * seconds / new / len(batches),
        "sentences/s": len(prompts) / seconds * new / ANSWER,
    }, []


def graph(device: Device) -> Iterator[Result]:
    """A decoding step, launched kernel by kernel and replayed as a CUDA graph: what the hardware allows."""
    from qwen_ner.inference.backends.static import ROWS, StaticDecoder

    yield compare_static_decoding(Device(device.name, tiny=True))
    dtype = torch.bfloat16 if device.cuda else torch.float32
    decoder = StaticDecoder(make_model(device, lora=False, dtype=dtype).eval().requires_grad_(False))
    length, position = (64, 20) if device.tiny else (192, 100)
    for rows in ROWS[:2] if device.tiny else ROWS:
        decoder.reserve(rows, length)

        def step() -> Any:
            return decoder.step([40] * decoder.rows, [position] * decoder.rows)

        decoder.graphing = False
        found = {"rows": rows, "eager ms": 1e3 * median_seconds(device, step, 2, 3)}
        if device.cuda:
            decoder.graphing = True
            start = time.perf_counter()
            step()
            device.synchronize()
            found["capture s"] = time.perf_counter() - start
            found["graph ms"] = 1e3 * median_seconds(device, step, 2, 8)
            found["captured"] = decoder.graphing
            found["sentences/s, without prefill"] = rows / ANSWER / found["graph ms"] * 1e3
        yield found, []


@torch.no_grad()
def compare_static_decoding(device: Device) -> Result:
    """Prompts that are written token by token into places, against one forward pass of transformers."""
    from qwen_ner.inference.backends.static import StaticDecoder

    model = make_model(device, lora=False).eval().requires_grad_(False)
    prompts = [row["prompt_ids"] for row in make_rows(device, 8)]
    wanted = torch.stack([model(torch.tensor([prompt]).to(device.name)).logits[0, -1].float() for prompt in prompts])
    decoder = StaticDecoder(model)
    decoder.reserve(len(prompts), 96)
    found = torch.zeros(2, len(prompts))
    for position in range(max(map(len, prompts))):
        ids = [prompt[min(position, len(prompt) - 1)] for prompt in prompts]
        _, likeliest = decoder.step(ids, [position] * len(prompts))
        ends = torch.tensor([len(prompt) - 1 == position for prompt in prompts])
        found = torch.where(ends, torch.tensor([*likeliest.tokens, *likeliest.logprobs]), found)
    apart = float((found[1] - wanted.log_softmax(-1).amax(-1).cpu()).abs().max())
    differ = int((found[0] != wanted.argmax(-1).cpu()).sum())
    line = {"static decoding": "against transformers", "tokens that differ": differ, "log-probability apart": apart}
    return line, [
        claim("static decoding: tokens that differ", differ, 0, at_most=True),
        claim("static decoding: log-probability apart", apart, 1e-4, at_most=True),
    ]
