"""The process that measures one side of a gate: `python -P gate_worker.py`, JSON lines in and out.

It is run by its path, from the gate's own package, with PYTHONPATH at the side: both sides are
measured by the same instrument. From the side come only names that old revisions have too.
The first line says what to open; each further line asks for one thing and is answered by one line.
"""

import ctypes
import gc
import json
import mmap
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import edgetiny
from edgetiny.checkpoint import ModelConfig, parameter_shapes
from edgetiny.errors import EdgetinyError
from edgetiny.model import build_model
from edgetiny.runtimes import EagerRuntime, Ids, Runtime, open_runtime

Emit = Callable[[Mapping[str, Any]], None]
Wrap = Callable[[Runtime], Runtime]

_DEVIATION = 0.02
_ENOUGH_STEPS = 3

_CALLGRIND = ord("C") << 24 | ord("T") << 16
_START_INSTRUMENTATION = _CALLGRIND + 4
_STOP_INSTRUMENTATION = _CALLGRIND + 5
# long request(long default, long *arguments); System V passes them in rdi and rsi.
_REQUEST = bytes.fromhex(
    "57"  # push rdi: the preamble rolls it by a whole turn
    "4889f0"  # mov rax, rsi: the arguments
    "4889fa"  # mov rdx, rdi: the answer where valgrind is not
    "48c1c703"  # rol rdi, 3
    "48c1c70d"  # rol rdi, 13
    "48c1c73d"  # rol rdi, 61
    "48c1c733"  # rol rdi, 51
    "4887db"  # xchg rbx, rbx: the request
    "4889d0"  # mov rax, rdx
    "5f"  # pop rdi
    "c3"  # ret
)


def main(wrap: Wrap = lambda runtime: runtime) -> int:
    """Serve standard input to its end. wrap: what a program that tests the gate does to it."""
    # Libraries print where they like; the answers keep the real standard output to themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        serve(sys.stdin, emit, wrap)
    except (EdgetinyError, ImportError) as error:
        emit({"error": f"{error}"})
    return 0


def serve(lines: Iterable[str], emit: Emit, wrap: Wrap) -> None:
    """Open what the first line names, then answer line by line.

    An artefact is opened again for another batch, which another of its plans may decode.
    """
    requests = (json.loads(line) for line in lines)
    opening = next(requests)
    torch.set_num_threads(opening["threads"])
    batch, runtime = 1, wrap(_open(opening, 1))
    emit(
        {
            "package": str(Path(edgetiny.__file__).parents[1]),
            "engine": runtime.engine.name,
            "precision": runtime.engine.precision,
            "torch": torch.__version__,
        }
    )
    for request in requests:
        wanted = request.get("batch", batch)
        if wanted != batch and _is_artefact(opening):
            # Another plan decodes another batch. Threads of an idle engine would slow the next.
            del runtime
            gc.collect()
            batch, runtime = wanted, wrap(_open(opening, wanted))
        emit(_DO[request.pop("do")](runtime, **request))


def decode(runtime: Runtime, batch: int, prompt_tokens: int, steps: int) -> list[int]:
    """Start `batch` sequences and take greedy steps; return the nanoseconds of each step.

    A step in which the kernel gave the core to another program counts with its processor time: the
    rest is the machine's. With several threads, whose processor times add up, it is left out unless
    hardly any other is left. A step that waits of its own accord keeps its whole time.
    """
    tokens = _prefill(runtime, batch, prompt_tokens)
    step_ns, undisturbed_ns = [], []
    for _ in range(steps):
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        busy_start, start = time.process_time_ns(), time.perf_counter_ns()
        tokens = _likeliest(runtime.step(tokens)[:, -1])
        took, busy = time.perf_counter_ns() - start, time.process_time_ns() - busy_start
        step_ns.append(took)
        if resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == switches:
            undisturbed_ns.append(took)
        elif runtime.engine.threads == 1:
            undisturbed_ns.append(min(took, busy))
    return undisturbed_ns if len(undisturbed_ns) >= _ENOUGH_STEPS else step_ns


def count_ops(runtime: Runtime, batch: int, prompt_tokens: int) -> dict[str, int]:
    """Return how often each torch operator runs in one decode step: each is a kernel or a view."""
    tokens = _prefill(runtime, batch, prompt_tokens)
    counter = _OpCounter()
    with counter:
        runtime.step(tokens)
    return dict(counter.counts)


class _OpCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def _answer_decode(runtime: Runtime, **request: int) -> dict[str, Any]:
    return {"step_ns": decode(runtime, **request)}


def _answer_ops(runtime: Runtime, **request: int) -> dict[str, Any]:
    return {"ops": count_ops(runtime, **request)}


def _answer_cost(runtime: Runtime, context: int) -> dict[str, Any]:
    """Return what the side's own arithmetic says that a token of this model costs, by precision."""
    from edgetiny.cost import step_cost

    costs = {}
    for precision in ("fp32", "int8"):
        step = step_cost(runtime.config, precision, 1, context)
        costs[precision] = {"bytes": step.total_bytes, "FLOPs": step.flops}
    return costs


def _answer_instructions(runtime: Runtime, start_at: int, **request: int) -> dict[str, Any]:
    """Decode with a warm allocator, and tell valgrind to count from step `start_at` on."""
    batch, prompt_tokens, steps = (request[key] for key in ("batch", "prompt_tokens", "steps"))
    tokens = _prefill(runtime, batch, prompt_tokens)
    for step in range(start_at + steps):
        if step == start_at:
            gc.collect()
            gc.disable()  # a collection in one side's steps only would count as work
            _tell_callgrind(_START_INSTRUMENTATION)
        tokens = _likeliest(runtime.step(tokens)[:, -1])
    _tell_callgrind(_STOP_INSTRUMENTATION)
    return {"steps": steps}


def _tell_callgrind(code: int) -> None:
    """Turn callgrind's counting on or off from inside; nothing happens where valgrind is not.

    Importing torch takes minutes while instructions are counted, and seconds while not. Valgrind
    takes requests as an instruction sequence that does nothing outside of it (x86-64 here).
    Source: Valgrind manual, "The Client Request mechanism"; the interface of valgrind.h.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_REQUEST)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    call = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.POINTER(ctypes.c_long))(address)
    call(0, (ctypes.c_long * 6)(code))


_DO: Mapping[str, Callable[..., dict[str, Any]]] = {
    "decode": _answer_decode,
    "ops": _answer_ops,
    "cost": _answer_cost,
    "instructions": _answer_instructions,
}


def _is_artefact(opening: Mapping[str, Any]) -> bool:
    return opening["path"] is not None and (Path(opening["path"]) / "manifest.json").is_file()


def _open(opening: Mapping[str, Any], batch: int) -> Runtime:
    context, threads = opening["context"], opening["threads"]
    if _is_artefact(opening):
        return open_runtime(opening["path"], context=context, threads=threads, max_batch=batch)
    if opening["path"] is not None:
        return open_runtime(opening["path"], context=context, threads=threads)
    config = ModelConfig.from_hf(opening["config"])
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.ones(shape)
        if len(shape) == 1
        else torch.empty(shape).normal_(0.0, _DEVIATION, generator=generator)
        for name, shape in parameter_shapes(config).items()
    }
    model = build_model(config, tensors)
    return EagerRuntime(model, Path("random"), context=context, threads=threads)


def _prefill(runtime: Runtime, batch: int, prompt_tokens: int) -> Ids:
    random = np.random.default_rng(0)
    prompt = random.integers(0, runtime.config.vocab_size, (batch, prompt_tokens), dtype=np.int64)
    return _likeliest(runtime.prefill(prompt, np.full(batch, prompt_tokens, np.int64)))


def _likeliest(logits: Any) -> Ids:
    tokens: Ids = logits.argmax(axis=-1)[:, None].astype(np.int64)  # (B, 1)
    return tokens


if __name__ == "__main__":
    sys.exit(main())
