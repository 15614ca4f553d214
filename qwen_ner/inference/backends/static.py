"""A decoding step in few kernels, over keys and values at fixed addresses, which a CUDA graph can replay.

In: a Qwen2 or Qwen3 for inference, and the tokens that its rows wrote last. Out: what judges the next. Knows nothing of
prompts, ends and constraints.

A step of few rows takes as long as its launches: for the 0.5B transformers launches 1,066 kernels, this less than 400,
and a graph is one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention, silu
from transformers import DynamicCache, PreTrainedModel

from .base import BATCH_TOKENS
from .decoding import Likeliest, find_likeliest
from .oom import out_of_memory

log = logging.getLogger(__name__)

ROWS = (1, 8, 64, 256, 512)
"""Numbers of rows that a step is made for; each is captured when it first comes up. Rows that nobody waits for cost
little: the weights are read once for all."""

FREE = 0.7
"""The share of the free memory that rows may take: the rest is for their prompts' passes."""

Seen = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Layer(NamedTuple):
    """The weights of a decoder layer, those that read the same input joined; `norms` are of queries and keys."""

    before: torch.Tensor
    qkv: torch.Tensor
    bias: torch.Tensor | None
    norms: tuple[torch.Tensor, torch.Tensor] | None
    out: torch.Tensor
    between: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


def unfit(model: PreTrainedModel) -> str:
    """Why `StaticDecoder` cannot run `model`; empty if it can.

    It takes the layers of Qwen2 and Qwen3 exactly as transformers defines them, so no adapter, quantization or shard.
    """
    from transformers.activations import SiLUActivation
    from transformers.models.qwen2 import modeling_qwen2
    from transformers.models.qwen3 import modeling_qwen3

    stock: set[type] = {torch.nn.Linear, torch.nn.Embedding, torch.nn.ModuleList, torch.nn.SiLU, SiLUActivation}
    for name, code in (("Qwen2", modeling_qwen2), ("Qwen3", modeling_qwen3)):
        parts = ("ForCausalLM", "Model", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")
        stock |= {getattr(code, name + part) for part in parts}
    if others := {type(module).__name__ for module in model.modules() if type(module) not in stock}:
        return f"it has modules of other classes: {', '.join(sorted(others))}"
    config, weights = model.config, list(model.parameters())
    rope = config.rope_parameters["rope_type"]
    biased = any(layer.self_attn.o_proj.bias is not None for layer in model.model.layers)
    reasons = {
        "its weights are trained": any(weight.requires_grad for weight in weights),
        "its weights are on several devices or of several dtypes": len({(w.device, w.dtype) for w in weights}) > 1,
        "it runs under autocast": torch.is_autocast_enabled(model.device.type),
        "its attention slides": set(config.layer_types) != {"full_attention"},
        f"its rotary positions depend on the length ({rope})": rope not in ("default", "linear", "yarn", "llama3"),
        "its attention adds a bias to its output": biased,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class StaticDecoder:
    """Decoding steps of a model that is not `unfit`, for rows in places whose keys and values stay where they are.

    Each row has a position of its own and sees the columns 0 … position of its place, so that nothing is padded on the
    left. `reserve` makes room, `fill` puts prompts into places, `step` decodes, `move` moves rows to others. The joined
    weights become those of `model`, too, so that they are held once.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.device, self.dtype = model, model.device, model.dtype
        config, attention = model.config, model.model.layers[0].self_attn
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.size, self.eps = attention.head_dim, config.rms_norm_eps
        self.layers = [_join(layer) for layer in model.model.layers]
        self.graphs: dict[tuple[int, int], tuple[Callable[[], object], Seen]] = {}
        self.graphing = self.device.type == "cuda"
        self.inputs = torch.zeros(2, ROWS[-1], dtype=torch.long, device=self.device)
        self.places = torch.arange(ROWS[-1], device=self.device)
        self.release()

    def release(self) -> None:
        """Free everything but the weights."""
        self.graphs.clear()
        self.pool: Any = None  # memory that graphs share; its handle is spent once the last of them is freed
        self.rows = self.length = self.capacity = 0
        self.kept = self.logits = self.cos = self.sin = self.columns = torch.empty(0, device=self.device)

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of a token: 12 KiB for the 0.5B in bfloat16."""
        return 2 * len(self.layers) * self.groups * self.size * self.dtype.itemsize

    def fitting_rows(self, length: int) -> int:
        """How many rows of `length` tokens fit into the memory that is free, 512 at most; on a CPU a usual batch."""
        if self.device.type != "cuda":
            return BATCH_TOKENS // length
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        free = torch.cuda.mem_get_info(self.device)[0] + unused + self.kept.nbytes + self.logits.nbytes
        judging = 4 * 4 * self.model.config.vocab_size  # logits in the model's dtype and in float32, and what sums them
        return min(ROWS[-1], int(FREE * free) // (length * self.token_bytes + judging))

    def reserve(self, rows: int, length: int) -> None:
        """Make places for `rows` (one of `ROWS`) of up to `length` tokens. What is in others is lost.

        Memory is kept for the next call, and so are graphs, as long as it suffices; the first call takes some to spare.
        """
        if rows * length > self.capacity or rows > len(self.logits) or length > len(self.cos):
            some = max(rows, min(64, self.fitting_rows(length)))
            capacity, most = max(some * length, self.capacity), max(some, len(self.logits))
            longest = max(length, len(self.cos))
            self.release()
            place: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
            # Zeros, since a column that is not seen yet counts 0 times, and 0 times NaN is NaN.
            self.kept = torch.zeros(capacity * self.token_bytes // self.dtype.itemsize, **place)
            self.logits = torch.empty(most, self.model.config.vocab_size, **place)
            self.columns = torch.arange(longest, device=self.device)
            cos, sin = self.model.model.rotary_emb(torch.empty(0, **place), self.columns[None])
            sin[..., : self.size // 2] *= -1  # so that halves are swapped without a change of sign
            self.cos, self.sin, self.capacity = self._by_head(cos, 1.0), self._by_head(sin, 0.0), capacity
        self.rows, self.length = rows, length

    def _by_head(self, turns: torch.Tensor, still: float) -> torch.Tensor:
        """(position, head, size) for queries, keys and values side by side. Values do not turn."""
        turned = turns[0, :, None].expand(-1, self.heads + self.groups, -1)
        return torch.nn.functional.pad(turned, (0, 0, 0, self.groups), value=still)

    def _cache(self, rows: int, length: int) -> torch.Tensor:
        """Keys and values, (layer, row, column, keys and values of the groups, size)."""
        shape = (len(self.layers), rows, length, 2 * self.groups, self.size)
        return self.kept[: torch.Size(shape).numel()].view(shape)

    def fill(self, places: Sequence[int], cache: DynamicCache) -> None:
        """Put the keys and values of prompts in `cache`, padded on the right, into `places`."""
        at = torch.tensor(places).to(self.device)
        for kept, layer in zip(self._cache(self.rows, self.length), cache.layers, strict=True):
            both = torch.cat([layer.keys, layer.values], 1).transpose(1, 2)
            kept[at, : both.shape[1]] = both

    def move(self, places: Sequence[int], rows: int, length: int) -> None:
        """`reserve`, and have the rows at `places` take the first of the new places."""
        columns = min(length, self.length)
        alive = self._cache(self.rows, self.length)[:, torch.tensor(places, dtype=torch.long).to(self.device), :columns]
        self.reserve(rows, length)
        self._cache(rows, length)[:, : len(places), :columns] = alive

    def step(self, ids: Sequence[int], positions: Sequence[int]) -> tuple[torch.Tensor, Likeliest]:
        """Logits (row, 1, vocabulary) behind the tokens `ids` at `positions`, one for each row, and what they say.

        The next step overwrites them. The host waits for the device once.
        """
        self.inputs[:, : self.rows].copy_(torch.tensor([ids, positions]), non_blocking=True)
        key = (self.rows, self.length)
        if self.graphing and key not in self.graphs:
            self._capture(key)
        if key in self.graphs:
            replay, (logits, best, normalizers) = self.graphs[key]
            replay()
        else:
            logits, best, normalizers = self._compute(*key)
        tokens, logprobs = best.tolist()
        return logits, Likeliest([list(map(int, tokens))], [logprobs], normalizers)

    def _capture(self, key: tuple[int, int]) -> None:
        """Record a step for `key` as a graph; where that fails, steps are launched kernel by kernel from then on."""
        try:
            with torch.cuda.device(self.device):
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):  # let kernels choose their plans before the capture
                    self._compute(*key)
                torch.cuda.current_stream().wait_stream(side)
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                self.pool = self.pool or torch.cuda.graph_pool_handle()
                with torch.cuda.graph(graph, pool=self.pool, stream=side, capture_error_mode="thread_local"):
                    seen = self._compute(*key)
                self.graphs[key] = graph.replay, seen
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            self.graphing = False
            log.warning("No CUDA graph could be recorded, so decoding takes longer: %s", error)

    def _compute(self, rows: int, length: int) -> Seen:
        """Logits (row, 1, vocabulary), their greatest and its log-probability (2, row), normalizers (row, 1)."""
        ids, positions = self.inputs[:, :rows]
        turns = self.cos[positions], self.sin[positions]
        unseen = self.columns[:length] > positions[:, None]
        mask = torch.zeros(rows, length, dtype=self.dtype, device=self.device).masked_fill_(unseen, -torch.inf)
        hidden = embedding(ids, self.model.model.embed_tokens.weight)
        for layer, kept in zip(self.layers, self._cache(rows, length), strict=True):
            attended = self._attend(layer, self._norm(hidden, layer.before), kept, turns, mask[:, None, None])
            hidden.addmm_(attended, layer.out.T)
            gate, up = linear(self._norm(hidden, layer.between), layer.gate_up).chunk(2, -1)
            hidden.addmm_(silu(gate) * up, layer.down.T)
        logits = self.logits[:rows]
        torch.mm(self._norm(hidden, self.model.model.norm.weight), self.model.lm_head.weight.T, out=logits)
        tokens, logprobs, normalizers = find_likeliest(logits[:, None])
        # One tensor, so that one transfer does; below 2²⁴ float32 holds each token exactly.
        return logits[:, None], torch.stack([tokens[:, 0].float(), logprobs[:, 0]]), normalizers

    def _attend(
        self, layer: Layer, hidden: torch.Tensor, kept: torch.Tensor, turns: Sequence[torch.Tensor], mask: torch.Tensor
    ) -> torch.Tensor:
        """What the rows' queries find in `kept`, keys and values of their places, after their own are added to it.

        Queries of a group stand in a column, as if they were tokens: keys and values are not repeated.
        """
        rows, heads, groups, (cos, sin) = len(hidden), self.heads, self.groups, turns
        states = linear(hidden, layer.qkv, layer.bias).view(rows, -1, self.size)
        if layer.norms:
            queries, keys, values = states.split([heads, groups, groups], 1)
            query_norm, key_norm = layer.norms
            states = torch.cat([self._norm(queries, query_norm), self._norm(keys, key_norm), values], 1)
        states = torch.addcmul(states * cos, states.roll(self.size // 2, -1), sin)
        kept[self.places[:rows], self.inputs[1, :rows]] = states[:, heads:]
        keys, values = kept.transpose(1, 2).chunk(2, 1)
        queries = states[:, :heads].view(rows, groups, heads // groups, self.size)
        return scaled_dot_product_attention(queries, keys, values, attn_mask=mask).reshape(rows, -1)

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, weight.shape, weight, self.eps)


def _join(layer: Any) -> Layer:
    """The weights of `layer`, whose own become parts of the joined ones."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    norms = (attention.q_norm.weight, attention.k_norm.weight) if hasattr(attention, "q_norm") else None
    return Layer(
        layer.input_layernorm.weight,
        _joined([part.weight for part in projections]),
        None if attention.q_proj.bias is None else _joined([part.bias for part in projections]),
        norms,
        attention.o_proj.weight,
        layer.post_attention_layernorm.weight,
        _joined([mlp.gate_proj.weight, mlp.up_proj.weight]),
        mlp.down_proj.weight,
    )


def _joined(weights: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    whole = torch.cat([weight.detach() for weight in weights])
    for weight, part in zip(weights, whole.split([len(weight) for weight in weights]), strict=True):
        weight.data = part
    return whole
