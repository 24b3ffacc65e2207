"""transformers on torch: eager, or a static cache with the step compiled; fp32 or bf16.

options: dtype, cache ("dynamic" is eager, "static" is compiled by transformers itself).
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peers.work import SHOWN_IDS, Timed, Work


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Write the checkpoint in the type that it is run in."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint).to(getattr(torch, options["dtype"]))
    model.save_pretrained(folder)


def run(folder: Path, options: Mapping[str, Any], work: Work) -> Timed:
    """Generate through transformers' own loop."""
    import torch
    from transformers import AutoModelForCausalLM, CompileConfig

    torch.set_num_threads(work.threads)
    dtype = getattr(torch, options["dtype"])
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    settings: dict[str, Any] = {}
    if options["cache"] == "static":
        # transformers compiles by itself on some devices only, not on the CPU, hence forward here.
        settings = {"cache_implementation": "static", "compile_config": CompileConfig()}
        model.forward = torch.compile(model.forward, dynamic=False)
    return generate_timed(model.eval(), work, **settings)


def generate_timed(model: Any, work: Work, **settings: Any) -> Timed:
    """Time `generate`, greedy and of fixed length; a streamer sees the first token."""
    import torch
    from transformers.generation.streamers import BaseStreamer

    class Clock(BaseStreamer):
        times: list[float]

        def __init__(self) -> None:
            self.times = []

        def put(self, value: Any) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    prompt = torch.from_numpy(work.prompt)
    # The loop ends a row at these; without them only the length does.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0

    def once(new_tokens: int) -> Timed:
        clock = Clock()
        begin = time.perf_counter()
        found = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_length=work.context if settings else None,
            max_new_tokens=None if settings else new_tokens,
            do_sample=False,
            streamer=clock,
            **settings,
        )
        seconds = time.perf_counter() - begin
        n_prompt = prompt.shape[1]
        if found.shape[1] != n_prompt + new_tokens and not settings:
            raise ValueError(f"asked for {new_tokens} tokens, got {found.shape[1] - n_prompt}")
        return Timed(
            seconds=seconds,
            first_token_seconds=clock.times[1] - begin,  # the first put is the prompt
            first_ids=found[0, n_prompt : n_prompt + SHOWN_IDS].tolist(),
        )

    with torch.inference_mode():
        # A second cache is compiled for anew, a third one is not.
        for _ in range(2 if settings else 1):
            once(work.warm_up_tokens)
        return once(work.new_tokens)
