"""The activation that is made anew gives what the stock one gives, and keeps less."""

import copy

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from qwen_ner.training.batches.swiglu import SwiGLU, recompute_activation

SIZE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}


@pytest.fixture(params=["qwen2", "qwen3"])
def model(request):
    torch.manual_seed(0)
    if request.param == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZE, **HEADS))
    return Qwen3ForCausalLM(Qwen3Config(**SIZE, **HEADS))


def passed(model):
    """(loss, gradients, elements kept for the backward pass) of one batch."""
    ids = torch.arange(12).reshape(2, 6)
    kept = []
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}, sum(kept)


def test_gradient_is_that_of_finite_differences():
    gate, up = torch.randn(2, 5, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(SwiGLU.apply, (gate.detach().requires_grad_(), up.detach().requires_grad_()))


def test_same_loss_and_gradients_with_less_kept(model):
    loss, gradients, kept = passed(model)
    loss_again, gradients_again, kept_again = passed(recompute_activation(model))
    assert loss_again == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_again[name], gradient, rtol=1e-5, atol=1e-7)
    assert kept - kept_again >= 2 * 12 * 64  # one tensor of the MLP's width a layer


def test_names_of_weights_stay_and_a_copy_stands_alone(model):
    names = set(model.state_dict())
    twin = copy.deepcopy(recompute_activation(model))
    assert set(model.state_dict()) == names
    before, *_ = passed(model)
    with torch.no_grad():
        twin.model.layers[0].mlp.down_proj.weight.zero_()
    assert passed(model)[0] == before != passed(twin)[0]


def test_other_activations_stay():
    model = Qwen2ForCausalLM(Qwen2Config(**SIZE, **HEADS, hidden_act="gelu"))
    before, *_ = passed(model)
    assert passed(recompute_activation(model))[0] == before
