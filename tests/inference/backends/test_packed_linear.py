import pytest
import torch
from transformers import AutoModelForCausalLM

from qwen_ner.inference.backends.packed_linear import PackedLinear, pack


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (3, 24), (2, 5, 24), (70, 24)])
def test_a_packed_layer_gives_what_the_layer_gives(shape, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(24, 40, bias=bias)
    hidden = torch.randn(shape)
    with torch.no_grad():
        assert torch.allclose(PackedLinear(linear)(hidden), linear(hidden), atol=1e-6)


def test_a_packed_model_gives_the_same_logits_and_keeps_its_embedding(tiny):
    plain, packed = (AutoModelForCausalLM.from_pretrained(tiny).eval() for _ in range(2))
    linears = sum(type(module) is torch.nn.Linear for module in plain.modules())
    assert pack(packed) is packed
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == linears > 10
    ids = torch.randint(3, 900, (4, 30))
    with torch.no_grad():
        assert torch.allclose(packed(ids).logits, plain(ids).logits, atol=1e-5)
    assert torch.equal(packed.get_input_embeddings().weight, plain.get_input_embeddings().weight)


@pytest.mark.parametrize("why", ["dtype", "operators"])
def test_what_cannot_be_packed_stays_as_it_is(tiny, monkeypatch, why):
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16 if why == "dtype" else torch.float32)
    if why == "operators":
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not any(isinstance(module, PackedLinear) for module in pack(model).modules())
