"""How fast are sentences read, and against whom?

    python benchmarks/extract_speed.py --model FOLDER --quick
    python benchmarks/extract_speed.py --model FOLDER --data cluener --limit 200 --json extract_speed.json

FOLDER is what `qwen-ner train` wrote; `tiny` trains nothing and takes the toy as it is made. Every way reads the same
sentences with the same weights (an adapter is merged for all of them), each in a process of its own, taking turns:

    one        transformers' greedy `generate`, a sentence at a time, as tutorials have it
    lookup     the same with its prompt-lookup decoding
    batched    transformers' greedy `generate`, `--batch` sentences at a time, sorted by length, padded on the left
    continuous transformers' continuous batching (`generate_batch`)
    llama      llama.cpp by its Python package, a sentence at a time, with its own cache of the prompt's beginning: of
               `--gguf FILE`, what its convert_hf_to_gguf.py makes of `qwen-ner export FOLDER OUT --merge`
    free       ours without a grammar: the ids must be those of `batched`
    constrained  ours as `predict` uses it
    *-guide    batched and free with a guideline prompt of about `--guideline` tokens
    free-one, constrained-one  ours, a sentence at a time, the prompt's keys and values kept

`--dtype` is that of all ways but llama's, whose file has its own: so that rivals compute in the same precision.
`same` is the share of sentences with the ids of `one` (or, for -guide, of `batched-guide`). p50 and p95 are of single
sentences where they are read one by one. `grammar` is the share of the time that was spent in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common import Points, claim, finish, machine, peak_memory_of_process, sweep, toy

SINGLE = ("one", "lookup", "llama", "free-one", "constrained-one")
WAYS = ("one", "lookup", "batched", "continuous", "free", "constrained", "free-one", "constrained-one")
GUIDED = ("batched-guide", "free-guide")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or a folder that qwen-ner train wrote")
    parser.add_argument("--data", default="sample", help="cluener (with QWEN_NER_DATA), sample, or a JSONL file")
    parser.add_argument("--limit", type=int, default=200, help="sentences of its dev split")
    parser.add_argument("--single", type=int, default=40, help="of these, how many are read one by one")
    parser.add_argument("--batch", type=int, default=32, help="sentences a batch, for all")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16; default: auto, as predict")
    parser.add_argument("--guideline", type=int, default=300)
    parser.add_argument("--ways", nargs="+", default=[*WAYS, *GUIDED])
    parser.add_argument("--gguf", type=Path, help="the same weights for llama.cpp, which is then one of the ways")
    parser.add_argument("--sweep", action="store_true", help="also sweep batch 1…64 and prefix 32…512, and draw both")
    parser.add_argument("--quick", action="store_true", help="one round, few sentences")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.gguf and "llama" not in options.ways:
        options.ways.append("llama")
    if options.worker:
        print(json.dumps(read_all(options.worker, options)))
        return
    if options.quick:
        options.limit, options.single, options.repeats = min(options.limit, 32), 8, 1
    with tempfile.TemporaryDirectory() as folder:
        if options.model == "tiny":
            options.model = str(toy(Path(folder) / "tiny"))
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
        for turn in range(options.repeats):
            for way in options.ways:
                print(f"round {turn + 1}/{options.repeats}: {way}", file=sys.stderr, flush=True)
                runs[way].append(in_process(way, options))
                print(f"    {runs[way][-1].get('error') or runs[way][-1]['seconds']}", file=sys.stderr, flush=True)
        points = run_sweep(options) if options.sweep else None
    table = {way: merge_runs(found, runs) for way, found in runs.items()}
    show(table)
    keys = ("model", "data", "limit", "single", "batch", "repeats", "guideline", "dtype")
    report = {
        "machine": machine("datasets"),
        "settings": {key: getattr(options, key) for key in keys},
        "table": table,
        "sweep": points,
        "claims": claims(table),
    }
    finish(report, options.json)


def in_process(way: str, options: argparse.Namespace, **changed: Any) -> dict[str, Any]:
    flags = []
    for key, value in {**vars(options), **changed}.items():
        if key in ("model", "data", "limit", "single", "batch", "guideline", "gguf", "dtype") and value is not None:
            flags += [f"--{key}", str(value)]
    done = subprocess.run([sys.executable, __file__, "--worker", way, *flags], capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def read_all(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Read the sentences by `way`: seconds of each call, the ids, memory, and how long the grammar took."""
    from qwen_ner.codec import Codec
    from qwen_ner.contract import NerConfig
    from qwen_ner.data.datasets import read_dataset
    from qwen_ner.data.tokenize import prompt_ids
    from qwen_ner.entities import CLUENER
    from qwen_ner.inference.extractor import Extractor
    from qwen_ner.inference.loading import load_tokenizer

    name = way.removesuffix("-guide")
    rivals = {"one": by_transformers, "lookup": by_transformers, "batched": by_transformers}
    rivals |= {"continuous": by_continuous_batching, "llama": by_llama_cpp}
    if name == "llama":
        config = NerConfig.load(options.model)
        extractor = SimpleNamespace(tokenizer=load_tokenizer(options.model), config=config, codec=config.codec())
    else:
        load = by_hand if name in rivals else Extractor.from_pretrained
        extractor = load(options.model, dtype=options.dtype)
    tokenizer, config = extractor.tokenizer, extractor.config
    texts = [example.text for example in read_dataset(options.data, "dev", labels=CLUENER)[: options.limit]]
    codec = extractor.codec
    if way.endswith("-guide"):
        described = config.system_prompt + "".join(f"{label.name}是{label.description}。" for label in CLUENER) * 40
        ids = tokenizer(described, add_special_tokens=False)["input_ids"][: options.guideline]
        codec = Codec(config.labels, tokenizer.decode(ids))
    if name in SINGLE:
        texts = texts[: options.single]
    prompts = prompt_ids(tokenizer, codec, texts)
    read = rivals.get(name, by_ours)
    read(extractor, texts[:2], prompts[:2], name, options)  # the first call of anything is slow
    started, busy = time.perf_counter(), time.process_time()
    found, seconds, grammar = read(extractor, texts, prompts, name, options)
    took, busy = time.perf_counter() - started, time.process_time() - busy
    return {
        "dtype": "" if name == "llama" else str(extractor.model.dtype).removeprefix("torch."),
        "seconds": took,
        "cpu_seconds": busy,
        "sentences": len(texts),
        "each": seconds,
        "ids": found,
        "grammar": grammar / took,
        "memory": peak_memory(),
    }


def peak_memory() -> float:
    """GiB of the GPU, or of the process where there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_memory_of_process()


def by_hand(folder: str, *, dtype: str) -> Any:
    """The model as transformers and peft load it, an adapter merged, without what `Extractor.from_pretrained` adds; in
    the dtype that it takes for auto."""
    import torch
    from transformers import AutoModelForCausalLM

    from qwen_ner.contract import NerConfig
    from qwen_ner.inference.backends.torch import default_dtype
    from qwen_ner.inference.extractor import Extractor
    from qwen_ner.inference.loading import load_tokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, default_dtype(device) if dtype == "auto" else dtype)
    if (Path(folder) / "adapter_config.json").is_file():
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32).merge_and_unload().to(kind)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind)
    model = model.to(device)
    return Extractor(model, load_tokenizer(folder), NerConfig.load(folder))


def run_sweep(options: argparse.Namespace) -> Points:
    """sentences/s over batch size and prompt length, for transformers' batched generate and ours without a grammar."""

    def rate(what: str, x: int, way: str) -> float | None:
        guided, changed = (f"{way}-guide", {"guideline": x}) if what == "prefix" else (way, {"batch": x})
        run = in_process(guided, options, limit=min(options.limit, 64), **changed)
        return None if "error" in run else run["sentences"] / run["seconds"]

    names = {"batched": "batched generate", "free": "ours"}
    target = (options.json or Path("extract_speed.json")).with_suffix(".png")
    return sweep(rate, names, "sentences/s", target, options.quick)


Read = tuple[list[list[int]], list[float], float]


def until_end(ids: Sequence[int], ends: Collection[int]) -> list[int]:
    return list(takewhile(lambda token: token not in ends, ids))


def by_transformers(extractor: Any, texts: list[str], prompts: list[list[int]], way: str, options: Any) -> Read:
    import torch

    from qwen_ner.inference.backends.batch_cache import pad_left
    from qwen_ner.inference.backends.torch import neutral_generation_config

    config, pad = extractor.config, extractor.tokenizer.pad_token_id
    settings = neutral_generation_config(config.end_token_ids, pad, config.max_new_tokens)
    extractor.model.generation_config = settings
    size = options.batch if way == "batched" else 1
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i])) if size > 1 else list(range(len(prompts)))
    ids: list[list[int]] = [[] for _ in prompts]
    seconds = []
    more = {"prompt_lookup_num_tokens": 5} if way == "lookup" else {}
    for at in range(0, len(order), size):
        rows = order[at : at + size]
        start = time.perf_counter()
        batch = {
            name: value.to(extractor.model.device) for name, value in pad_left([prompts[i] for i in rows], pad).items()
        }
        with torch.no_grad():
            out = extractor.model.generate(**batch, generation_config=settings, **more)
        for i, new in zip(rows, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            ids[i] = until_end(new, config.end_token_ids)
        seconds.append(time.perf_counter() - start)
    return ids, seconds, 0.0


def by_continuous_batching(extractor: Any, texts: list[str], prompts: list[list[int]], way: str, options: Any) -> Read:
    from qwen_ner.inference.backends.torch import neutral_generation_config

    config, pad = extractor.config, extractor.tokenizer.pad_token_id
    settings = neutral_generation_config(config.end_token_ids, pad, config.max_new_tokens)
    flash = extractor.model.device.type == "cuda" and find_spec("flash_attn")
    extractor.model.set_attn_implementation("paged|flash_attention_2" if flash else "paged|sdpa")
    start = time.perf_counter()
    found = extractor.model.generate_batch(inputs=prompts, generation_config=settings, progress_bar=False)
    ids = [until_end(one.generated_tokens, config.end_token_ids) for one in found.values()]
    return ids, [time.perf_counter() - start], 0.0


def by_llama_cpp(extractor: Any, texts: list[str], prompts: list[list[int]], way: str, options: Any) -> Read:
    config, model = extractor.config, llama(options.gguf)
    ids, seconds = [], []
    for prompt in prompts:
        start, new = time.perf_counter(), []
        for token in model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            if token in config.end_token_ids or len(new) == config.max_new_tokens:
                break
            new.append(token)
        ids.append(new)
        seconds.append(time.perf_counter() - start)
    return ids, seconds, 0.0


@cache
def llama(gguf: Path) -> Any:
    from llama_cpp import Llama

    from qwen_ner.inference.cores import usable_cores

    threads = usable_cores()
    return Llama(str(gguf), n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)


def by_ours(extractor: Any, texts: list[str], prompts: list[list[int]], way: str, options: Any) -> Read:
    config = extractor.config
    spent = Watch()
    ids: list[list[int]] = []
    seconds = []
    size = 1 if way.endswith("-one") else len(prompts)
    longest = max(map(len, prompts)) + config.max_new_tokens
    for at in range(0, len(prompts), size):
        start = time.perf_counter()
        make = spent.timed(extractor.grammar.constraint)
        guides = [spent.over(make(text, config.max_new_tokens)) for text in texts[at : at + size]]
        completions = extractor.backend.complete(
            prompts[at : at + size],
            config.max_new_tokens,
            guides if way.startswith("constrained") else None,
            hints=guides,
            batch_tokens=options.batch * longest,
        )
        ids += [completion.ids for completion in completions]
        seconds.append(time.perf_counter() - start)
    return ids, seconds, spent.seconds


class Watch:
    """Adds up the seconds that are spent in constraints."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, constraint: Any) -> Any:
        for name in ("allows", "allowed", "advance", "forecast"):
            setattr(constraint, name, self.timed(getattr(constraint, name)))
        return constraint

    def timed(self, call: Any) -> Any:
        def watched(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args)
            finally:
                self.seconds += time.perf_counter() - start

        return watched


def merge_runs(found: list[dict[str, Any]], runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    good = [run for run in found if "error" not in run]
    if not good:
        return found[0]
    way = next(name for name, one in runs.items() if one is found)
    reference = next(
        (run for run in runs.get("batched-guide" if way.endswith("-guide") else "one", []) if "ids" in run), None
    )
    same = None
    if reference:
        pairs = list(zip(reference["ids"], good[0]["ids"], strict=False))
        same = sum(a == b for a, b in pairs) / len(pairs)
    each = sorted(second for run in good for second in run["each"])
    values = {
        "dtype": good[0]["dtype"],
        "sentences/s": statistics.median(run["sentences"] / run["seconds"] for run in good),
        "sentences/CPU s": statistics.median(run["sentences"] / run["cpu_seconds"] for run in good),
        "GiB": statistics.median(run["memory"] for run in good),
        "grammar": statistics.median(run["grammar"] for run in good),
        "same": same,
    }
    if way in SINGLE:
        values |= {"p50": each[len(each) // 2], "p95": each[int(0.95 * (len(each) - 1))]}
    return values


def show(table: dict[str, Any]) -> None:
    print(f"{'':18}{'sentences/s':>12}{'/CPU s':>8}{'p50 s':>8}{'p95 s':>8}{'GiB':>7}{'grammar':>9}{'same':>7}")
    for way, values in table.items():
        if "error" in values:
            print(f"{way:18}{values['error']:>12}")
            continue
        latency = f"{values['p50']:8.3f}{values['p95']:8.3f}" if "p50" in values else " " * 16
        same = "" if values["same"] is None else f"{values['same']:7.0%}"
        rates = f"{values['sentences/s']:12.2f}{values['sentences/CPU s']:8.2f}"
        print(f"{way:18}{rates}{latency}{values['GiB']:7.2f}{values['grammar']:9.1%}{same}")


def claims(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures that are asked of the 0.5B; on another model they are printed all the same."""
    ratios = [
        ("sentences/s, free, against batched generate", "free", "batched", "sentences/s", 2.5),
        ("sentences/s, constrained, against batched generate", "constrained", "batched", "sentences/s", 2.5),
        ("sentences/s, constrained, against one by one", "constrained", "one", "sentences/s", 7.0),
        (
            "sentences/s with the guideline prompt, against batched generate",
            "free-guide",
            "batched-guide",
            "sentences/s",
            5.0,
        ),
    ]
    made = [
        claim(name, table[ours][key] / table[theirs][key], bound)
        for name, ours, theirs, key, bound in ratios
        if all(key in table.get(way, {}) for way in (ours, theirs))
    ]
    for ours in ("free-one", "constrained-one"):
        if "p50" in table.get(ours, {}) and "p50" in table.get("one", {}):
            made.append(
                claim(
                    f"p50 of one sentence, {ours}, against generate",
                    table[ours]["p50"] / table["one"]["p50"],
                    0.55,
                    at_most=True,
                )
            )
    if "grammar" in table.get("constrained", {}):
        made.append(
            claim("share of the time spent in the grammar", table["constrained"]["grammar"], 0.05, at_most=True)
        )
    if table.get("free", {}).get("same") is not None and table["free"]["dtype"] == "float32":  # else near ties move
        made.append(claim("sentences with the ids of generate, free", table["free"]["same"], 1.0))
    return made


if __name__ == "__main__":
    main()
