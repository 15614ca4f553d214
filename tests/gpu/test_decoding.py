"""On a GPU a replayed graph writes what the same step writes kernel by kernel: QWEN_NER_GPU_TESTS=1 pytest tests/gpu."""

import pytest
import torch
from rows import EIGHT
from transformers import AutoModelForCausalLM

from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER
from qwen_ner.inference.backends.torch import TorchBackend
from qwen_ner.inference.constraints.grammar import Grammar

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and QWEN_NER_GPU_TESTS=1")

TEXTS = [gold.text[: len(gold.text) - cut] for cut in range(6) for gold in EIGHT]


def load(folder, dtype, device="cuda"):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).requires_grad_(False)


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_graph_writes_what_its_kernels_write(tiny, tokenizer, codec, dtype, bound, caplog):
    """All at once, in places taken in turn, alone, and at a length that makes room anew."""
    model, prompts = load(tiny, dtype), prompt_ids(tokenizer, codec, TEXTS)
    grammar = Grammar(CLUENER.names, tokenizer, (2, 0))
    by_graph, by_kernel = TorchBackend(model, (2, 0), 0), TorchBackend(model, (2, 0), 0)
    assert by_graph.decoder
    assert by_kernel.decoder
    by_kernel.decoder.graphing = False
    for some, limit, budget in ((48, 24, None), (48, 24, 8 * 96), (1, 24, None), (9, 200, None), (48, 24, 8 * 96)):
        found, wanted = (
            backend.complete(
                prompts[:some],
                limit,
                [grammar.constraint(text, limit) for text in TEXTS[:some]] if bound else None,
                batch_tokens=budget,
            )
            for backend in (by_graph, by_kernel)
        )
        assert [(one.ids, one.finished) for one in found] == [(one.ids, one.finished) for one in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert by_graph.decoder.graphs
    assert not by_kernel.decoder.graphs
    assert not caplog.records, "nothing failed to be recorded"


def test_in_float32_it_writes_what_a_cpu_writes(tiny, tokenizer, codec):
    prompts, before = prompt_ids(tokenizer, codec, TEXTS), torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        found = TorchBackend(load(tiny, torch.float32), (2, 0), 0).complete(prompts, 24)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    wanted = TorchBackend(load(tiny, torch.float32, "cpu"), (2, 0), 0).complete(prompts, 24)
    assert [one.ids for one in found] == [one.ids for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
