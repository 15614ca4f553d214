"""The forward and backward pass of a micro-batch as a CUDA graph: recorded once for each shape of batch, then replayed.

In: a function that runs a micro-batch, and batches of few shapes. Out: the same loss and the same gradients. Knows
nothing of how a batch is laid out.

A step of a small model takes as long as its launches: on an H100 the kernels of 60 rows with LoRA compute for 30 ms,
and the host takes 170 ms to launch them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ....files import replace_attributes
from ....inference.backends.oom import out_of_memory

log = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]
Shapes = tuple[tuple[str, torch.Size], ...]
Run = Callable[[Batch], torch.Tensor]
"""Forward and backward pass of a batch; adds to the gradients and returns the detached loss."""

MOST = 64
"""Graphs of a training at most; batches of other shapes are launched kernel by kernel."""


@dataclass(frozen=True)
class Graph:
    """A recorded pass: where it reads its batch, where it leaves its loss."""

    inputs: Batch
    loss: torch.Tensor
    replay: Callable[[], object]


class GraphedPasses:
    """Runs micro-batches, those of a shape that occurred before by replaying a graph.

    A graph adds to gradients at fixed addresses, `gradients`. The Trainer drops the gradients after each step, so they
    are put back, as zeros, before the next. What ran in Python while a graph was recorded does not run in a replay:
    `loop.trainer.obstacle` tells where that matters.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.recording = True
        self.seen: set[Shapes] = set()
        self.graphs: dict[Shapes, Graph] = {}
        self.trained: set[torch.nn.Parameter] = set()  # an optimizer passes over weights without a gradient
        self.gradients: dict[torch.nn.Parameter, torch.Tensor] = {}
        self.pool: Any = None

    def __call__(self, model: torch.nn.Module, batch: Batch, run: Run) -> torch.Tensor:
        """The loss of `batch`, whose values are tensors on the device; its gradients are added to `model`'s."""
        shapes = tuple((name, value.shape) for name, value in sorted(batch.items()))
        if self.recording and shapes in self.seen and shapes not in self.graphs and len(self.graphs) < MOST:
            self._record(shapes, batch, run)
        if graph := self.graphs.get(shapes):
            for name, value in batch.items():
                graph.inputs[name].copy_(value)
            self._use_gradients()
            graph.replay()
            return graph.loss.clone()  # the next replay overwrites it
        self.seen.add(shapes)
        try:
            loss = run(dict(batch))
        except RuntimeError as error:
            if out_of_memory(error):
                self.stop()
            raise
        self.trained.update(weight for weight in model.parameters() if weight.grad is not None)
        return loss

    def stop(self) -> None:
        """Free the graphs, and record no more."""
        self.recording = False
        self.graphs.clear()
        self.gradients.clear()
        self.pool = None

    def _use_gradients(self) -> None:
        """Have each weight's gradient stand where the graphs add to it, with the value that it has now."""
        fresh = []
        for weight, gradient in self.gradients.items():
            if weight.grad is None:
                fresh.append(gradient)
            elif weight.grad is not gradient:
                gradient.copy_(weight.grad)
            weight.grad = gradient
        if fresh:
            torch._foreach_zero_(fresh)

    def _record(self, shapes: Shapes, batch: Batch, run: Run) -> None:
        """Record a pass of these `shapes`; where that fails, passes are launched kernel by kernel from then on.

        A pass of the same shapes has run before, so kernels have chosen their plans. Nothing computes in here.
        """
        inputs = {name: value.clone() for name, value in batch.items()}
        before = {weight: weight.grad for weight in self.trained}
        try:
            for weight in self.trained:
                if weight not in self.gradients:
                    self.gradients[weight] = torch.zeros_like(weight)
                weight.grad = self.gradients[weight]
            with torch.cuda.device(self.device):
                graph = torch.cuda.CUDAGraph()
                self.pool = self.pool or torch.cuda.graph_pool_handle()
                with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                    loss = run(dict(inputs))
            self.graphs[shapes] = Graph(inputs, loss, graph.replay)
        except RuntimeError as error:
            log.warning("No CUDA graph of a training step could be recorded, so steps take longer: %s", error)
            self.stop()
        finally:
            for weight, gradient in before.items():
                weight.grad = gradient


def listed_parameters(model: Any) -> AbstractContextManager[None]:
    """While the context lasts, `model` looks for its parameters once: the Trainer asks for them, and for their number,
    in each step, and in the modules of an adapted 0.5B a server takes 5 ms to find them."""
    weights = list(model.parameters())
    found = {"parameters": lambda recurse=True: iter(weights), "num_parameters": cache(model.num_parameters)}
    return replace_attributes(model, **found)
