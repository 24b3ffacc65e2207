"""The ceilings of this machine: how fast it reads memory, how fast it multiplies matrices."""

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgetiny.errors import DeviceError
from edgetiny.measure.cuda import cuda_free_bytes
from edgetiny.measure.machine import llc_bytes
from edgetiny.measure.memory import available_bytes
from edgetiny.measure.spread import median
from edgetiny.measure.threads import torch_threads

if TYPE_CHECKING:
    import torch

GemmDtype = Literal["fp32", "bf16", "fp16", "int8"]
PeakDevice = Literal["cpu", "cuda"]
# A product of square matrices of a size, ready to be called.
_Maker = Callable[[int, PeakDevice], Callable[[], object]]
# What a CPU is described by; it multiplies fp16 by way of fp32.
GEMM_DTYPES: tuple[GemmDtype, ...] = ("fp32", "bf16", "int8")

_LEAST_BUFFER_BYTES = 256 * 2**20
_LLC_MULTIPLE = 4
_GEMM_SIZES: Mapping[PeakDevice, tuple[int, ...]] = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
_SLOW_GEMM_SECONDS = 0.5
# A device that works on its own is given several calls before it is waited for: one alone takes it
# only a few times as long as launching and waiting do.
_CALLS_A_PASS: Mapping[PeakDevice, int] = {"cpu": 1, "cuda": 16}


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What reading memory reached: the best pass is the ceiling, the median shows the company."""

    bytes_per_s: float
    median_bytes_per_s: float
    kernel: str
    passes: int
    buffer_bytes: int
    llc_bytes: int | None
    threads: int


def read_bandwidth(threads: int, seconds: float = 1.0, device: PeakDevice = "cpu") -> Bandwidth:
    """Measure how fast `threads` threads, or a CUDA device, read memory that no cache holds.

    Four reductions that store nothing take turns over one buffer of at least four times the
    last-level cache; the fastest pass of all is the limit, since neighbours only ever slow one.
    Raises DeviceError if there is no room for the buffer.
    """
    import torch

    cache = llc_bytes() if device == "cpu" else _cuda_cache_bytes()
    size = max(_LEAST_BUFFER_BYTES, _LLC_MULTIPLE * (cache or 0))
    _require_memory(size, available_bytes() if device == "cpu" else cuda_free_bytes())
    with _measuring(threads):
        buffer = torch.ones(size // 4, device=device)
        rates = _rates(_read_kernels(buffer), size, seconds, device)
        del buffer
    kernel = max(rates, key=lambda name: max(rates[name]))
    return Bandwidth(
        bytes_per_s=max(rates[kernel]),
        median_bytes_per_s=median(rates[kernel]),
        kernel=kernel,
        passes=sum(map(len, rates.values())),
        buffer_bytes=size,
        llc_bytes=cache,
        threads=threads,
    )


@dataclass(frozen=True, slots=True)
class GemmPeak:
    """What a square matrix product reached, in operations (multiply and add are two) a second."""

    flops_per_s: float
    median_flops_per_s: float
    dtype: GemmDtype
    size: int
    passes: int
    threads: int


def gemm_peak(
    dtype: GemmDtype, threads: int, seconds: float = 1.0, device: PeakDevice = "cpu"
) -> GemmPeak | None:
    """Measure the best rate of a square matrix product; None if torch has none of this dtype here.

    int8 is the faster of two: `torch._int_mm` (int8 operands, int32 sums), which is a plain loop on
    x86 without VNNI, and on CPUs the product of torch's dynamically quantized linear layer, whose
    fp32 ends take part.
    """
    share = seconds / len(_GEMM_SIZES[device])
    makers: list[_Maker]
    if dtype != "int8":
        makers = [functools.partial(_gemm, dtype)]
    elif device == "cpu":
        makers, share = [_int8_gemm, _int8_linear], share / 2
    else:
        makers = [_int8_gemm]
    best = None
    with _measuring(threads):
        for make in makers:
            peak = _best_size(make, dtype, threads, share, device)
            if best is None or (peak is not None and peak.flops_per_s > best.flops_per_s):
                best = peak
    return best


def _best_size(
    make: _Maker,
    dtype: GemmDtype,
    threads: int,
    seconds: float,
    device: PeakDevice,
) -> GemmPeak | None:
    """Return the best rate of a product over the sizes, `seconds` each; None if it cannot run."""
    best = None
    for size in _GEMM_SIZES[device]:
        try:
            product = make(size, device)
            start = time.perf_counter()
            product()
            _finish(device)
        except (RuntimeError, AttributeError):  # torch: no such kernel on this processor
            return best
        took = time.perf_counter() - start
        rates = _rates({"gemm": product}, 2 * size**3, seconds, device)["gemm"]
        peak = GemmPeak(max(rates), median(rates), dtype, size, len(rates), threads)
        if best is None or peak.flops_per_s > best.flops_per_s:
            best = peak
        if took > _SLOW_GEMM_SECONDS:  # the next size takes eight times as long
            break
    return best


def _read_kernels(buffer: "torch.Tensor") -> dict[str, Callable[[], object]]:
    import torch

    first, second = buffer.chunk(2)
    wide = buffer.view(torch.int64)
    return {
        "sum float32": buffer.sum,
        "max float32": buffer.amax,
        "sum int64": wide.sum,
        "dot float32": lambda: torch.dot(first, second),
    }


def _gemm(dtype: GemmDtype, size: int, device: PeakDevice) -> Callable[[], object]:
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    a = torch.ones(size, size, dtype=kind, device=device)
    b = torch.ones(size, size, dtype=kind, device=device)
    return lambda: a @ b


def _int8_gemm(size: int, device: PeakDevice) -> Callable[[], object]:
    import torch

    left = torch.ones(size, size, dtype=torch.int8, device=device)
    right = torch.ones(size, size, dtype=torch.int8, device=device)
    return lambda: torch._int_mm(left, right)  # no public int8 product exists in torch 2.13


def _int8_linear(size: int, device: PeakDevice) -> Callable[[], object]:
    import torch

    with warnings.catch_warnings():
        # torch 2.13 means to remove it some day, and has nothing yet that is as fast without VNNI.
        warnings.simplefilter("ignore", UserWarning)
        weight = torch.quantize_per_tensor(torch.ones(size, size), 1.0, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(weight, None)
    x = torch.ones(size, size, device=device)
    return lambda: torch.ops.quantized.linear_dynamic(x, packed, reduce_range=True)


def _rates(
    kernels: dict[str, Callable[[], object]], work: float, seconds: float, device: PeakDevice
) -> dict[str, list[float]]:
    """Return work per second of each pass; the kernels take turns, so noise hits all alike."""
    for kernel in kernels.values():
        kernel()  # the first pass pays for page faults and for choosing a kernel
    _finish(device)
    rates: dict[str, list[float]] = {name: [] for name in kernels}
    n_calls = _CALLS_A_PASS[device]
    deadline = time.perf_counter() + seconds
    while True:
        for name, kernel in kernels.items():
            start = time.perf_counter()
            for _ in range(n_calls):
                kernel()
            _finish(device)
            rates[name].append(n_calls * work / (time.perf_counter() - start))
        if time.perf_counter() >= deadline:
            return rates


def _finish(device: PeakDevice) -> None:
    """Wait for a device that works on its own, so that the clock sees the whole pass."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _cuda_cache_bytes() -> int | None:
    import torch

    return torch.cuda.get_device_properties(0).L2_cache_size or None


@contextlib.contextmanager
def _measuring(threads: int) -> Iterator[None]:
    import torch

    if threads < 1:
        raise DeviceError(f"cannot measure with {threads} threads; give at least 1")
    with torch_threads(threads), torch.inference_mode():
        yield


def _require_memory(size: int, available: int | None) -> None:
    if available is not None and size > available // 2:
        raise DeviceError(
            f"measuring bandwidth needs a buffer of {size / 2**20:,.0f} MiB, over half of the"
            f" {available / 2**20:,.0f} MiB of free memory; close other programs"
        )
