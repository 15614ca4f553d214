import shutil
import subprocess
import sys

import pytest
import torch
from rows import EIGHT
from transformers import AutoModelForCausalLM

from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER
from qwen_ner.inference.backends.packed_linear import EXACT_LOGITS, PackedHead, PackedLinear, pack, packable
from qwen_ner.inference.backends.torch import TorchBackend, has_bf16
from qwen_ner.inference.extractor import Extractor

HALF = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(torch.bfloat16 not in packable(), reason="oneDNN has no bfloat16 on this CPU"),
)
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8}
"""How far a number of a dtype may be from the right one, relative to it."""


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (3, 24), (2, 5, 24), (70, 24)])
def test_a_packed_layer_gives_what_the_layer_gives(shape, bias, dtype):
    torch.manual_seed(0)
    linear = torch.nn.Linear(24, 40, bias=bias, dtype=dtype)
    hidden = torch.randn(shape, dtype=dtype)
    with torch.no_grad():
        found = PackedLinear(linear)(hidden)
        assert found.dtype == dtype
        torch.testing.assert_close(found, linear(hidden), rtol=2 * ROUNDING[dtype], atol=ROUNDING[dtype])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [HALF])
def test_the_largest_logits_of_a_head_in_bfloat16_are_those_of_float32(dtype, bias):
    """Where rounded ones tie, the likeliest token is a matter of chance."""
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 2000, bias=bias, dtype=dtype)
    torch.nn.init.normal_(head.weight)
    hidden = torch.randn(3, 50, 64, dtype=dtype)
    with torch.no_grad():
        found, rounded = PackedHead(head)(hidden), head(hidden).float()
        right = torch.nn.functional.linear(hidden.double(), head.weight.double(), head.bias.double() if bias else None)
    assert found.dtype == torch.float32
    assert not torch.equal(rounded.argmax(-1), right.argmax(-1)), "there is something to put right"
    assert torch.equal(found.argmax(-1), right.argmax(-1))
    largest = right.topk(EXACT_LOGITS // 2).indices
    torch.testing.assert_close(found.gather(-1, largest), right.gather(-1, largest).float(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found, right.float(), rtol=2**-8, atol=1e-2)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_packed_model_gives_the_same_logits_and_keeps_its_embedding(tiny, dtype, tied):
    plain, packed = (
        AutoModelForCausalLM.from_pretrained(tiny, dtype=dtype, tie_word_embeddings=tied).eval() for _ in range(2)
    )
    if not tied:
        for model in (plain, packed):
            torch.nn.init.normal_(model.lm_head.weight, generator=torch.Generator().manual_seed(0), std=0.1)
    linears = sum(type(module) is torch.nn.Linear for module in plain.modules())
    assert pack(packed) is packed
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == linears > 10
    ids = torch.randint(3, 900, (4, 30))
    with torch.no_grad():
        found, right = packed(ids).logits, plain(ids).logits
        torch.testing.assert_close(found.float(), right.float(), rtol=2 * ROUNDING[dtype], atol=10 * ROUNDING[dtype])
    assert torch.equal(packed.get_input_embeddings().weight, plain.get_input_embeddings().weight)


@pytest.mark.parametrize("why", ["dtype", "processor", "operators"])
def test_what_cannot_be_packed_stays_as_it_is(tiny, monkeypatch, why):
    dtype = {"dtype": torch.float16, "processor": torch.bfloat16}.get(why, torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=dtype)
    if why == "operators":
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    if why == "processor":
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not any(isinstance(module, PackedLinear) for module in pack(model).modules())


@pytest.mark.parametrize("dtype", [HALF])
def test_answers_in_bfloat16_are_the_same_packed_or_not(tiny, tokenizer, codec, dtype):
    """But for the head, which rounds less."""
    config = NerConfig(CLUENER, codec.system_prompt, 24, (2, 0))
    prompts = prompt_ids(tokenizer, codec, [gold.text for gold in EIGHT])
    packed = TorchBackend.load(tiny, tokenizer, config, device="cpu", dtype="bfloat16")
    plain = AutoModelForCausalLM.from_pretrained(tiny, dtype=dtype)
    plain.lm_head = PackedHead(plain.lm_head)
    expected = TorchBackend(plain, config.end_token_ids, tokenizer.pad_token_id).complete(prompts, 24)
    found = packed.complete(prompts, 24)
    assert [one.ids for one in found] == [one.ids for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not has_bf16("cpu"), reason="this CPU only emulates bfloat16, with other roundings")
def test_a_trained_model_finds_the_same_in_bfloat16_with_scores_that_hardly_move(trained):
    texts = [gold.text for gold in EIGHT]
    whole, half = (
        Extractor.from_pretrained(trained["full"], dtype=dtype).predict(texts) for dtype in ("float32", "bfloat16")
    )
    assert [one.surfaces for one in half] == [one.surfaces for one in whole]
    assert not any(one.problems for one in half), "constrained answers are whole JSON"
    before, after = ([entity.score for one in found for entity in one.entities] for found in (whole, half))
    assert len(before) > 5
    assert after == pytest.approx(before, abs=0.02)


def test_an_untrained_model_too_writes_whole_json_in_bfloat16(tiny, codec, tmp_path):
    """Its probabilities are all alike, so that roundings decide."""
    shutil.copytree(tiny, tmp_path / "model")
    NerConfig(CLUENER, codec.system_prompt, 24, (2, 0)).save(tmp_path / "model")
    found = Extractor.from_pretrained(tmp_path / "model", dtype="bfloat16").predict([gold.text for gold in EIGHT])
    assert any(one.surfaces for one in found)
    assert not any(one.problems for one in found)


RESIDENT = """
import sys, torch
from qwen_ner.inference.backends import packed_linear
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) // 1024
class Model(torch.nn.Module):
    device, dtype = torch.device("cpu"), torch.float32
    def __init__(self):
        super().__init__()
        first = torch.ones(30 << 18)  # 30 MiB: as it is freed, glibc takes what is smaller from its heap from now on
        del first
        self.layers = torch.nn.ModuleList(torch.nn.Linear(1024, 1024, bias=False) for _ in range(50))
    def get_output_embeddings(self):
        return None
before = resident()
keep = packed_linear.pack(Model())
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_the_memory_of_the_original_weights_goes_back():
    """200 MiB of weights, which take as much packed."""
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 230
