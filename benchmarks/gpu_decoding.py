"""Decoding speed for on_gpu.py: the package's own loop, and a step that a CUDA graph can replay."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from common import claim
from gpu_models import Device, cudnn_attention, make_model, make_rows
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

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
    yield time_generate(device, adapter, prompts[: rows // 8], new, BATCH_TOKENS, False, "adapter, float32, autocast")
    del adapter
    device.empty_cache()
    merged = make_model(device, lora=False, dtype=torch.bfloat16).eval()
    for cudnn, budget, share in ((False, BATCH_TOKENS, 1), (False, 1 << 20, 1), (True, BATCH_TOKENS, 2)):
        if device.cuda or not cudnn:
            yield time_generate(device, merged, prompts[: rows // share], new, budget, cudnn, "merged, bfloat16")


def time_generate(
    device: Device, model: Any, prompts: list[list[int]], new: int, budget: int, cudnn: bool, weights: str
) -> Result:
    from qwen_ner.inference.backends.torch import TorchBackend
    from qwen_ner.training.batches.collate import choose_collator

    batches: list[int] = []
    with cudnn_attention(cudnn), device.autocast("autocast" in weights):
        choose_collator(model, 0)  # a model attends in evaluations as it was set to in training
        TorchBackend(model, [2], 0).complete(prompts[:4], 4)
        device.synchronize()
        start = time.perf_counter()
        TorchBackend(model, [2], 0, budget).complete(prompts, new, on_rows=batches.append)
        device.synchronize()
        seconds = time.perf_counter() - start
    return {
        "weights": weights,
        "cudnn": cudnn,
        "batch tokens": budget,
        "rows a batch": batches,
        "ms a step": 1e3 * seconds / new / len(batches),
        "sentences/s": len(prompts) / seconds * new / ANSWER,
    }, []


class StaticDecoder:
    """One step of greedy decoding for a fixed number of rows, over a cache at a fixed address.

    A CUDA graph replays kernels over the same memory, so the cache cannot grow. Each row has its own position and sees
    the columns 0 … position of its cache: nothing is padded. A prototype to measure with.
    """

    def __init__(self, model: Any, rows: int, length: int) -> None:
        config, weights = model.config, model.state_dict()
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.size, self.eps = config.hidden_size // self.heads, config.rms_norm_eps
        self.layers = [layer_of(weights, f"model.layers.{i}.") for i in range(config.num_hidden_layers)]
        self.embedding, self.norm = weights["model.embed_tokens.weight"], weights["model.norm.weight"]
        place: dict[str, Any] = {"device": model.device}
        shape = (len(self.layers), rows, self.groups, length, self.size)
        self.keys, self.values = (torch.zeros(shape, dtype=model.dtype, **place) for _ in range(2))
        self.ids, self.positions = (torch.zeros(rows, dtype=torch.long, **place) for _ in range(2))
        self.columns, self.rows = torch.arange(length, **place), torch.arange(rows, **place)
        self.frequencies = 1e6 ** (-torch.arange(0, self.size, 2, **place).float() / self.size)

    @torch.no_grad()
    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest tokens behind `ids` at `positions`, and their log-probabilities."""
        angles = self.positions[:, None].float() * self.frequencies
        turns = [torch.cat([part, part], -1)[:, None].to(self.keys.dtype) for part in (angles.cos(), angles.sin())]
        seen = (self.columns <= self.positions[:, None])[:, None, None]
        hidden = self.embedding[self.ids]
        for i, layer in enumerate(self.layers):
            hidden = hidden + self._attend(i, layer, self._norm(hidden, layer["norm 1"]), turns, seen)
            gate, up = linear(self._norm(hidden, layer["norm 2"]), layer["gate, up"]).chunk(2, -1)
            hidden = hidden + linear(silu(gate) * up, layer["down"])
        logits = linear(self._norm(hidden, self.norm), self.embedding).float()
        best = logits.max(-1)
        return best.indices, best.values - logits.logsumexp(-1)

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, hidden.shape[-1:], weight, self.eps)

    def _attend(
        self,
        i: int,
        layer: dict[str, torch.Tensor],
        hidden: torch.Tensor,
        turns: list[torch.Tensor],
        seen: torch.Tensor,
    ) -> torch.Tensor:
        rows, heads, groups, size = len(hidden), self.heads, self.groups, self.size

        def turn(states: torch.Tensor) -> torch.Tensor:
            half = torch.cat([-states[..., size // 2 :], states[..., : size // 2]], -1)
            return states * turns[0] + half * turns[1]

        both = linear(hidden, layer["q, k, v"], layer["bias"])
        query, key, value = both.split([heads * size, groups * size, groups * size], -1)
        self.keys[i, self.rows, :, self.positions] = turn(key.view(rows, groups, size))
        self.values[i, self.rows, :, self.positions] = value.view(rows, groups, size)
        queries = turn(query.view(rows, heads, size)).view(rows, groups, heads // groups, size)
        out = scaled_dot_product_attention(queries, self.keys[i], self.values[i], attn_mask=seen)
        return linear(out.reshape(rows, -1), layer["out"])


def layer_of(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The weights of one layer, those that read the same input joined."""

    def join(names: str, kind: str) -> torch.Tensor:
        return torch.cat([weights[f"{prefix}{name}.{kind}"] for name in names.split()])

    projections = "self_attn.q_proj self_attn.k_proj self_attn.v_proj"
    return {
        "q, k, v": join(projections, "weight"),
        "bias": join(projections, "bias"),
        "out": weights[f"{prefix}self_attn.o_proj.weight"],
        "gate, up": join("mlp.gate_proj mlp.up_proj", "weight"),
        "down": weights[f"{prefix}mlp.down_proj.weight"],
        "norm 1": weights[f"{prefix}input_layernorm.weight"],
        "norm 2": weights[f"{prefix}post_attention_layernorm.weight"],
    }


def graph(device: Device) -> Iterator[Result]:
    """A decoding step, launched kernel by kernel and replayed as a CUDA graph: what the hardware allows."""
    yield compare_static_decoding(Device(device.name, tiny=True))
    model = make_model(device, lora=False, dtype=torch.bfloat16 if device.cuda else torch.float32).eval()
    for rows in (4, 16) if device.tiny else (1, 8, 64, 256, 512, 1024):
        decoder = StaticDecoder(model, rows, 32 if device.tiny else 208)
        decoder.positions.fill_(20 if device.tiny else 100)
        found = {"rows": rows, "eager ms": 1e3 * median_seconds(device, decoder.step, 2, 3)}
        if device.cuda:
            replay, found["capture s"] = capture(device, decoder)
            found["graph ms"] = 1e3 * median_seconds(device, replay, 2, 8)
            found["sentences/s, without prefill"] = rows / ANSWER / found["graph ms"] * 1e3
        yield found, []


def capture(device: Device, decoder: StaticDecoder) -> tuple[Callable[[], None], float]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # let kernels choose their plans before the capture
        decoder.step()
    torch.cuda.current_stream().wait_stream(side)
    device.synchronize()
    start = time.perf_counter()
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        decoder.step()
    device.synchronize()
    return recorded.replay, time.perf_counter() - start


@torch.no_grad()
def compare_static_decoding(device: Device) -> Result:
    """One prompt token by token through the prototype, against one forward pass of transformers."""
    model = make_model(device, lora=False).eval()
    prompt = make_rows(device, 1)[0]["prompt_ids"]
    decoder = StaticDecoder(model, 1, len(prompt))
    for position, token in enumerate(prompt):
        decoder.ids.fill_(token)
        decoder.positions.fill_(position)
        best, logprob = decoder.step()
    wanted = model(input_ids=torch.tensor([prompt], device=device.name)).logits[0, -1].float()
    apart = abs(float(logprob) - float(wanted.log_softmax(-1).max()))
    line = {"static decoding": "against transformers", "same token": int(best) == int(wanted.argmax())}
    return line | {"log-probability apart": apart}, [
        claim("static decoding: tokens that differ", int(best) != int(wanted.argmax()), 0, at_most=True),
        claim("static decoding: log-probability apart", apart, 1e-4, at_most=True),
    ]
