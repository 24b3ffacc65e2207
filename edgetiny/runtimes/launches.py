"""What one decode step costs in launches: the same on every run, whatever the machine does."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edgetiny.errors import ConfigError
from edgetiny.runtimes.eager import EagerRuntime
from edgetiny.runtimes.graph import GraphRuntime
from edgetiny.runtimes.precision import is_cuda

_LAUNCH_CALLS = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchCooperativeKernel")
_GRAPH_CALLS = ("cudaGraphLaunch", "cuGraphLaunch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Launches:
    """What the host starts in one greedy step, and what then runs.

    calls: kernels launched one by one, and whole graphs. kernels: those that ran on the device,
    copies left out; on a CPU each call is one.
    """

    calls: int
    kernels: int


def launches_per_step(runtime: EagerRuntime | GraphRuntime, batch: int) -> Launches:
    """Count the launches of one greedy step of `batch` sequences. Forgets every sequence.

    On a CPU operators are counted, those that only look at memory in another way left out.
    Raises ConfigError for a step that is compiled for a CPU: its kernels are no operators.
    """
    on_cuda = is_cuda(runtime.engine.device)
    if not on_cuda and isinstance(runtime, GraphRuntime) and runtime.is_compiled:
        raise ConfigError("a step compiled for a CPU has no launches to count; open it uncompiled")
    token = np.zeros((batch, 1), np.int64)
    runtime.prefill(token, np.ones(batch, np.int64))
    # The first step allocates and records, which later ones do not.
    token = runtime.greedy_step(token)
    launches = _on_cuda(runtime, token) if on_cuda else _on_cpu(runtime, token)
    runtime.reset()
    return launches


def host_calls(names: Iterable[str]) -> int:
    """Return how many of the CUDA calls of these names launch a kernel or a graph."""
    return sum(name.startswith(_LAUNCH_CALLS + _GRAPH_CALLS) for name in names)


def _on_cuda(runtime: EagerRuntime | GraphRuntime, token: Any) -> Launches:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        runtime.greedy_step(token)
        torch.cuda.synchronize()
    events = profile.events()
    assert events is not None
    device = torch.autograd.DeviceType.CUDA  # type: ignore[attr-defined]
    ran = [event.name for event in events if event.device_type == device]
    copies = ("Memcpy", "Memset")
    return Launches(
        calls=host_calls(event.name for event in events if event.device_type != device),
        kernels=sum(not name.startswith(copies) for name in ran),
    )


def _on_cpu(runtime: EagerRuntime | GraphRuntime, token: Any) -> Launches:
    with _Operators() as operators:
        runtime.greedy_step(token)
    return Launches(calls=operators.count, kernels=operators.count)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the operators that run, views left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))
