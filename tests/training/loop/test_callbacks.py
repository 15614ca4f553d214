"""A stop that all ranks make at the same step."""

import signal
from types import SimpleNamespace

import torch
from transformers import TrainerControl, TrainerState

from qwen_ner.training.loop.callbacks import StopOnSignal


def test_a_signal_that_comes_while_the_ranks_agree_is_for_the_next_step(monkeypatch):
    """This rank has told the others that there is none: it must neither stop alone nor forget it."""
    stop, args = StopOnSignal(), SimpleNamespace(world_size=2, device="cpu")
    arriving = [signal.SIGTERM]

    def all_reduce(flag, op):
        if arriving:
            stop._on_signal(arriving.pop(), None)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    stops = []
    for _ in range(2):
        control = TrainerControl()
        stop.on_step_end(args, TrainerState(epoch=0.5), control)
        stops.append((control.should_save, stop.received))
    assert stops == [(False, 0), (True, signal.SIGTERM)]
