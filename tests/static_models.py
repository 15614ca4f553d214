"""Small models of random weights that a `StaticDecoder` can run, and a backend that uses one on a CPU."""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from qwen_ner.inference.backends.static import StaticDecoder, unfit
from qwen_ner.inference.backends.torch import TorchBackend

SHAPE = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
    "max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def make_model(family, **options):
    """Of random weights, all norms and biases among them; the heads of a Qwen3 are larger than hidden / heads."""
    torch.manual_seed(0)
    if family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE | {"vocab_size": 1508, "tie_word_embeddings": True} | options))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**SHAPE | {"vocab_size": 1508, "head_dim": 24} | options))
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            torch.nn.init.uniform_(weight, *((-0.5, 0.5) if "bias" in name else (0.5, 1.5)))
    return model.eval().requires_grad_(False)


def static_backend(model, ends=(2, 0)):
    assert not unfit(model)
    backend = TorchBackend(model, ends, pad_token_id=0)
    assert backend.decoder is None, "a CPU decodes batch by batch"
    backend.decoder = StaticDecoder(model)
    return backend
