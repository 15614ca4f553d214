"""Layers in fewer kernels compute what the stock layers compute."""

import copy

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from qwen_ner.inference.backends.torch import TorchBackend
from qwen_ner.training.batches.gpu import layers
from qwen_ner.training.batches.gpu.layers import LoRALinear, fuse_layers
from qwen_ner.training.model import add_adapter

SIZE = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 64,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True,
}  # fmt: skip
LORA = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"}


@pytest.fixture(params=["qwen2", "qwen3"])
def base(request):
    torch.manual_seed(0)
    if request.param == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZE))
    return Qwen3ForCausalLM(Qwen3Config(**SIZE))


def adapted(base, **lora):
    """`base` with an adapter that does something, in training mode."""
    model = add_adapter(base, {**LORA, **lora})
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model.train()


def passed(model, dtype=None):
    """(loss, gradients) of one batch, under autocast in `dtype`."""
    ids = torch.arange(24).reshape(2, 12)
    model.zero_grad()
    torch.manual_seed(1)  # of dropout
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(before, after):
    """Up to what RMSNorm rounds: the stock one computes in float32 whatever its dtype."""
    assert after[0] == pytest.approx(before[0], rel=1e-6)
    assert after[1].keys() == before[1].keys()
    for name, gradient in before[1].items():
        assert (after[1][name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-12, name


@pytest.fixture
def exact(monkeypatch):
    """Autocast to the double precision of the weights, which torch does not have on a CPU."""
    monkeypatch.setattr(layers, "autocast_dtype", lambda device: torch.double)


@pytest.mark.parametrize("dropped", [False, True], ids=["no dropout", "dropout"])
def test_gradients_are_those_of_finite_differences(dropped):
    shapes = {"x": (2, 3, 5), "dropped": (2, 3, 5), "weight": (4, 5), "bias": (4,), "a": (2, 5), "b": (4, 2)}
    made = {name: torch.randn(shape, dtype=torch.double) for name, shape in shapes.items()}
    for name in ("x", "dropped", "a", "b"):
        made[name].requires_grad_()
    made["dropped"] = made["dropped"] if dropped else None
    assert torch.autograd.gradcheck(LoRALinear.apply, (*made.values(), 1.5))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_adapted_model_has_the_stock_loss_and_gradients(base, exact, dropout):
    model = adapted(base, lora_dropout=dropout).double()
    before = passed(model)
    names = set(model.state_dict())
    after = passed(fuse_layers(model, torch.double))
    assert set(model.state_dict()) == names
    assert_same(before, after)


def test_a_whole_model_has_the_stock_loss_and_gradients(base):
    before = passed(base.double())
    after = passed(fuse_layers(base, torch.bfloat16))
    assert {p.dtype for p in base.parameters()} == {torch.double}, "nothing is frozen"
    assert_same(before, after)


def test_in_bfloat16_it_is_as_exact_as_the_stock_model(base):
    def off(found):
        pairs = [(found[name], gradient) for name, gradient in wanted.items()]
        return sum(float((a - b).pow(2).sum()) for a, b in pairs) ** 0.5

    model = adapted(base)
    _, wanted = passed(model)
    _, stock = passed(model, torch.bfloat16)
    _, fused = passed(fuse_layers(model, torch.bfloat16), torch.bfloat16)
    assert {p.dtype for p in fused.values()} == {torch.float32}
    assert 0 < off(fused) < 1.2 * off(stock)


def test_frozen_weights_in_bfloat16_change_no_bit(base, monkeypatch):
    """Autocast makes the same of them in every step. The embedding, which is the head, stays in float32."""
    for change in ("_adapting", "_normalizing", "_rotating"):
        monkeypatch.setattr(layers, change, lambda stock: stock)
    model = adapted(base)
    loss, gradients = passed(model, torch.bfloat16)
    fuse_layers(model, torch.bfloat16)
    frozen = {name: p.dtype for name, p in model.named_parameters() if not p.requires_grad}
    assert {dtype for name, dtype in frozen.items() if "base_layer" in name} == {torch.bfloat16}
    assert {dtype for name, dtype in frozen.items() if "embed" in name or "norm" in name} == {torch.float32}
    found, found_gradients = passed(model, torch.bfloat16)
    assert found == loss
    assert all(torch.equal(found_gradients[name], gradient) for name, gradient in gradients.items())


@pytest.mark.parametrize(
    "odd", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"lora_bias": True}]
)
def test_other_adapters_train_as_before(base, exact, odd):
    if odd.get("lora_bias"):
        odd = {**odd, "target_modules": ["q_proj"]}
        if base.model.layers[0].self_attn.q_proj.bias is None:
            pytest.skip("no bias to adapt")
    model = adapted(base, **odd).double()
    before, after = passed(model), passed(fuse_layers(model, torch.double))
    assert_same(before, after)


def test_disabled_and_merged_adapters_do_as_they_are_told(base, exact):
    model = adapted(base).double().eval()
    ids = torch.arange(12)[None]
    with_adapter = model(input_ids=ids).logits
    with model.disable_adapter():
        without = model(input_ids=ids).logits
    fuse_layers(model, torch.double)
    torch.testing.assert_close(model(input_ids=ids).logits, with_adapter)
    with model.disable_adapter():
        torch.testing.assert_close(model(input_ids=ids).logits, without)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(model.merge_and_unload()(input_ids=ids).logits, with_adapter)
    torch.testing.assert_close(twin(input_ids=ids).logits, with_adapter)


def test_text_is_generated_as_before(base, exact):
    def written(model):
        backend = TorchBackend(model, end_token_ids=[2], pad_token_id=0)
        return [(one.ids, one.finished) for one in backend.complete([[5, 6, 7, 8], [5, 6, 9], [5, 6, 7]], 12)]

    model = adapted(base).double().eval()
    before = written(model)
    assert written(fuse_layers(model, torch.double)) == before


def test_outside_of_autocast_the_stock_layer_computes(base):
    model = adapted(base)
    before, after = passed(model), passed(fuse_layers(model, torch.float32))
    assert_same(before, after)
