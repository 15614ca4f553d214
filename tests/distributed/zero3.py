"""Launched by test_deepspeed: a model sharded by ZeRO-3 on gloo, gathered, and used by each rank in its own way.

zero3.py MODEL
"""

import copy
import sys

import torch
from transformers import AutoModelForCausalLM

from qwen_ner.inference.backends.torch import TorchBackend
from qwen_ner.training.loop.whole_model import fill, outline

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]

if __name__ == "__main__":
    import deepspeed
    import deepspeed.comm.torch

    deepspeed.comm.torch.build_shm_op = lambda: None  # a faster all-reduce on one host, which needs a compiler
    deepspeed.init_distributed("gloo")
    rank = torch.distributed.get_rank()
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
    plain, empty = copy.deepcopy(model).eval(), outline(model)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)
    here = sum(bool(parameter.numel()) for parameter in engine.module.parameters())
    whole = fill(empty, engine.module, torch.device("cpu"), None)
    equal = [torch.equal(a, b) for a, b in zip(whole.parameters(), plain.parameters(), strict=True)]
    some = PROMPTS[: 1 + 2 * rank]
    written, expected = (
        [one.ids for one in TorchBackend(m, [2], 0).complete(some, 3 + 5 * rank)] for m in (whole, plain)
    )
    same = written == expected
    print(
        f"rank {rank}: {here} of {len(equal)} weights are here, gathered {sum(equal)} are equal, "
        f"wrote {len(some)} rows {'as' if same else 'not as'} without",
        flush=True,
    )
    torch.distributed.destroy_process_group()
