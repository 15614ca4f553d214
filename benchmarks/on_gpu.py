"""On a GPU: is a shared batch still exact, and what do a new shape, a training step and a decoding step cost?

    python benchmarks/on_gpu.py --json on_gpu.json           # a few minutes on one GPU
    python benchmarks/on_gpu.py exact step                   # any of: env exact shapes step decode graph
    python benchmarks/on_gpu.py --tiny                       # three narrow layers: under a minute on a CPU

The weights are random, in the shape of Qwen2.5-0.5B: neither exactness nor speed depends on what a model knows. Each
result is printed as a line of JSON as soon as it is measured, and `--json` is rewritten after each check, so an
interrupted run keeps what it had. A check that runs over `--seconds` skips its remaining cases.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import claim, finish, machine
from gpu_decoding import Result, decode, graph, median_seconds
from gpu_models import ATTENTIONS, Device, batch_for, config_of, cudnn_attention, make_model, make_rows
from train_measure import count_flops

STEPS = (  # adapter, layers in fewer kernels, attention, rows a batch
    (True, True, "varlen", 15),
    (True, False, "sdpa", 15),
    (True, False, "padded", 15),
    (True, True, "varlen", 60),
    (True, False, "sdpa", 60),
    (True, False, "padded", 60),
    (True, True, "varlen", 240),
    (False, True, "varlen", 15),
    (False, False, "sdpa", 15),
    (False, True, "varlen", 60),
    (False, False, "sdpa", 60),
    (False, True, "varlen", 240),
)


def main() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    checks = {"env": env, "exact": exact, "shapes": shapes, "step": step, "decode": decode, "graph": graph}
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checks", nargs="*", help=f"of {', '.join(checks)}; default: all, in this order")
    parser.add_argument("--tiny", action="store_true", help="three narrow layers, so that a CPU can run it")
    parser.add_argument("--seconds", type=float, default=40, help="of each check; default: 40")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.checks) - checks.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no such check; there are {', '.join(checks)}")
    device = Device("cuda" if torch.cuda.is_available() else "cpu", options.tiny)
    report: dict[str, Any] = {"machine": machine("datasets"), "tiny": device.tiny, "table": [], "claims": []}
    for name in options.checks or checks:
        start = time.perf_counter()
        for line, claims in checks[name](device):
            rounded = {key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in line.items()}
            report["table"].append({"check": name, **rounded})
            report["claims"] += claims
            print(json.dumps(report["table"][-1], ensure_ascii=False), flush=True)
            if time.perf_counter() - start > options.seconds:
                print(f"# {name} took more than {options.seconds:g} s; its remaining cases are skipped", flush=True)
                break
        print(f"# {name}: {time.perf_counter() - start:.1f} s", flush=True)
        if options.json:
            finish({**report, "claims": []}, options.json)
    finish(report, options.json)


def env(device: Device) -> Iterator[Result]:
    """The machine's limits: its rate of matrix products, and what a kernel launch costs the host."""
    if device.cuda:
        properties = torch.cuda.get_device_properties(0)
        capability = f"{properties.major}.{properties.minor}"
        yield {"gpu": properties.name, "capability": capability, "cudnn": torch.backends.cudnn.version()}, []
    size, launches = (8192, 2000) if device.cuda else (256, 100)
    square, one = torch.randn(size, size, device=device.name).bfloat16(), torch.randn(1, device=device.name)

    def launch() -> None:
        for _ in range(launches):
            one.add_(1)

    yield {"bf16 TFLOP/s": 2 * size**3 / median_seconds(device, lambda: square @ square, 3, 8) / 1e12}, []
    yield {"µs a launch": 1e6 * median_seconds(device, launch, 1, 5) / launches}, []


Gradients = dict[str, torch.Tensor]


def exact(device: Device) -> Iterator[Result]:
    """Loss and gradients of one shared batch against its rows one by one in float32, for each attention.

    In bfloat16 nothing is equal, so the yardstick there is how far rounding alone takes the rows one by one.
    """
    from qwen_ner.training.batches.gpu.layers import fuse_layers

    rows = make_rows(device, 15)
    for lora in (True, False):
        model = make_model(device, lora).eval()
        alone = [batch_for(device, model, [row], "padded") for row in rows]
        wanted = loss_and_gradients(device, model, alone, bf16=False)
        rounding = differences(loss_and_gradients(device, model, alone, bf16=True), wanted)
        yield {"lora": lora, "attention": "rows one by one", "dtype": "bfloat16", **rounding}, []
        cases = [(a, bf16, False) for a in ATTENTIONS for bf16 in (False, True)]
        for attention, bf16, fused in [*cases, ("varlen" if device.cuda else "sdpa", True, True)]:
            if attention == "varlen" and not (bf16 and device.cuda):
                continue
            dtype = "bfloat16" if bf16 else "float32"
            of = f"{attention}{', LoRA' if lora else ''}{', fused' if fused else ''}"
            line = {"lora": lora, "attention": attention, "fused": fused, "dtype": dtype}
            try:
                if fused:
                    fuse_layers(model, torch.bfloat16)
                batch = batch_for(device, model, rows, attention)
                found = differences(loss_and_gradients(device, model, [batch], bf16), wanted)
            except Exception as error:  # the other attentions are still to be measured
                yield {**line, "failed": reason(error)}, [claim(f"{of}: fails", 1, 0, at_most=True)]
                continue
            if bf16:
                ratio = found["gradient, norm"] / rounding["gradient, norm"]
                claims = [claim(f"{of}, bfloat16: gradients off, against rows one by one", ratio, 1.2, at_most=True)]
            else:
                claims = [
                    claim(f"{of}, float32: loss off", found["loss"], 1e-6, at_most=True),
                    claim(f"{of}, float32: gradients off", found["gradient, greatest"], 2e-5, at_most=True),
                ]
            yield {**line, **found}, claims
        del model, alone, wanted
        device.empty_cache()


def loss_and_gradients(device: Device, model: Any, batches: list[Any], bf16: bool) -> tuple[float, Gradients]:
    """The loss, a mean over the supervised tokens of all `batches`, and its gradients."""
    tokens = sum(int((batch["shift_labels"] != -100).sum()) for batch in batches)
    model.zero_grad()
    total = 0.0
    for batch in batches:
        with device.autocast(bf16):
            loss = model(**batch, num_items_in_batch=torch.tensor(float(tokens), device=device.name)).loss
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def differences(found: tuple[float, Gradients], wanted: tuple[float, Gradients]) -> dict[str, float]:
    """Relative differences: of the loss, of the worst element to the greatest gradient, and of the whole by norm."""
    (loss, gradients), (wanted_loss, wanted_gradients) = found, wanted
    assert gradients.keys() == wanted_gradients.keys()
    off = {name: (gradients[name] - gradient).float() for name, gradient in wanted_gradients.items()}
    greatest = max(float(gradient.abs().max()) for gradient in wanted_gradients.values())
    return {
        "loss": abs(loss / wanted_loss - 1),
        "gradient, greatest": max(float(each.abs().max()) for each in off.values()) / greatest,
        "gradient, norm": norm(off) / norm(wanted_gradients),
    }


def norm(gradients: Gradients) -> float:
    return math.sqrt(sum(float(gradient.double().pow(2).sum()) for gradient in gradients.values()))


def shapes(device: Device) -> Iterator[Result]:
    """The first pass of a new shape against later ones (for which cuDNN plans anew): every pack has a new shape."""
    model = make_model(device, lora=True).train()
    for attention, cudnn in (("varlen", False), ("sdpa", False), ("sdpa", True)):
        if not device.cuda and (cudnn or attention != "sdpa"):
            continue
        line = {"attention": attention, "cudnn": cudnn}
        first, again = [], []
        try:
            with cudnn_attention(cudnn):
                for seed in range(2 if device.tiny else 5):
                    batch = batch_for(device, model, make_rows(device, 15, seed + 100), attention)
                    once = partial(pass_through, device, model, batch)
                    first.append(median_seconds(device, once, 0, 1))
                    again.append(median_seconds(device, once, 0, 1))
        except Exception as error:
            yield {**line, "failed": reason(error)}, []
            continue
        usual = statistics.median(again)
        slowest = max(first[1:]) / usual  # the first of all warms up
        named = f"{attention}: a new shape against one that was seen"
        claims = [claim(named, slowest, 2, at_most=True)] if device.cuda and not cudnn else []
        yield {**line, "first s": [round(s, 4) for s in first], "again s": usual}, claims


def pass_through(device: Device, model: Any, batch: Any) -> None:
    with device.autocast():
        loss = model(**batch).loss
    loss.backward()
    model.zero_grad()


def step(device: Device) -> Iterator[Result]:
    """A whole training step: forward, backward, clipping, AdamW; kernels, and for how long they keep the GPU busy."""
    busy: dict[str, float] = {}
    for lora, fused, attention, rows in STEPS:
        if attention == "varlen" and not device.cuda:
            continue
        line = {"lora": lora, "fused": fused, "attention": attention, "rows": rows}
        claims = []
        try:
            found = measure_step(device, lora, fused, attention, rows)
        except Exception as error:
            yield {**line, "failed": reason(error)}, []
            continue
        if lora and rows == 15 and fused and "kernels" in found:
            claims = [
                claim("LoRA, 15 rows: kernels a step", found["kernels"], 4200, at_most=True)
            ]  # with the optimizer's
        if lora and rows == 60 and "GPU busy ms" in found:
            busy[attention] = found["GPU busy ms"]
            if attention == "padded" and "varlen" in busy:
                share = busy["varlen"] / busy["padded"]
                claims = [claim("60 rows: GPU time against dynamic padding", share, 0.7, at_most=True)]
        yield {**line, **found}, claims
        device.empty_cache()


def measure_step(device: Device, lora: bool, fused: bool, attention: str, count: int) -> dict[str, Any]:
    from qwen_ner.training.batches.gpu.graphs import GraphedPasses
    from qwen_ner.training.batches.gpu.layers import fuse_layers
    from qwen_ner.training.batches.reduced_head import head_over
    from qwen_ner.training.batches.swiglu import recompute_activation

    device.empty_cache()
    model = recompute_activation(make_model(device, lora)).train()
    if fused:
        fuse_layers(model, torch.bfloat16)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    rows = make_rows(device, count)
    batch = batch_for(device, model, rows, attention)
    tokens = torch.tensor(sorted({token for row in rows for token in row["prompt_ids"] + row["answer_ids"]}))

    def launched(batch: dict[str, Any]) -> torch.Tensor:
        with device.autocast():
            loss = model(**batch).loss
        loss.backward()
        return loss.detach()

    def once(run: Callable[[dict[str, Any]], object] = launched) -> None:
        run(batch)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    warm, times = (1, 2) if device.tiny else (3, 6)
    with head_over(tokens, model) if lora else nullcontext():
        seconds = median_seconds(device, once, warm, times)
        found: dict[str, Any] = {"ms": 1e3 * seconds, "rows/s": count / seconds}
        if device.cuda:
            found |= profile_step(device, once)
        if device.cuda and fused:  # as a training does
            graphed = partial(GraphedPasses(torch.device("cuda", 0)), model, run=launched)
            seconds = median_seconds(device, partial(once, graphed), warm, times)
            flops = count_flops(model, work_of(batch, rows, len(tokens) if lora else None), full=not lora)
            found |= {
                "graph ms": 1e3 * seconds,
                "graph rows/s": count / seconds,
                "graph TFLOP/s": flops / seconds / 1e12,
            }
        return found


def work_of(batch: dict[str, Any], rows: list[Any], vocabulary: int | None) -> dict[str, float]:
    """What a pack of `rows` computes, as `train_measure.count_flops` takes it; a frozen head costs two thirds."""
    prefix = 32
    own = [len(row["prompt_ids"]) + len(row["answer_ids"]) - prefix for row in rows]
    pairs = (prefix * prefix + sum(length * (length + 2 * prefix) for length in own)) / 2
    logits = batch["logits_to_keep"].numel()
    full = config_of(tiny=False).vocab_size
    return {
        "tokens": prefix + sum(own),
        "pairs": pairs,
        "logits": logits * 1.5 if vocabulary is None else logits * vocabulary / full,
    }


def profile_step(device: Device, call: Any) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    memory = torch.cuda.max_memory_allocated() / 2**30
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        device.synchronize()
    kernels = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.device_time for event in kernels) / 1e3
    return {"kernels": len(kernels), "GPU busy ms": busy, "GiB": memory}


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"


if __name__ == "__main__":
    main()
