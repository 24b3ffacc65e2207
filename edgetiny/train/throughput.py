"""How fast the machine multiplies: what MFU divides by, and whether bf16 pays."""

import functools
import time
from typing import Literal

import torch

from edgetiny.config.train import TrainConfig
from edgetiny.errors import DeviceError
from edgetiny.measure import gemm_peak

Precision = Literal["fp32", "bf16"]

_SECONDS = 0.2
_CUDA_SIZE = 8192
_CUDA_PASSES = 10
# A step is not all matrix products: below this, casting to bf16 costs more than it saves.
_BF16_PAYS_ABOVE = 1.5


@functools.cache
def peak_flops(device: Literal["cpu", "cuda"], precision: Precision, threads: int) -> float | None:
    """Return the measured FLOP/s of a large matrix product; None if there is none of this type.

    Measured anew in each process, in well under a second, beside whatever else the machine does.
    """
    if device == "cuda":
        return _cuda_peak(precision)
    peak = gemm_peak(precision, threads, _SECONDS)
    return None if peak is None else peak.flops_per_s


def choose_precision(config: TrainConfig) -> Precision:
    """Return the arithmetic to train with: the one asked for, or for `auto` the faster one here."""
    if config.precision != "auto":
        return config.precision
    if config.device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    threads = torch.get_num_threads()
    slow, fast = peak_flops("cpu", "fp32", threads), peak_flops("cpu", "bf16", threads)
    return "bf16" if slow and fast and fast > _BF16_PAYS_ABOVE * slow else "fp32"


def check_device(config: TrainConfig) -> None:
    """Raise DeviceError if the device, or the compiler that --compile needs, is not there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("this PyTorch finds no CUDA device; train with --device cpu")


def _cuda_peak(precision: Precision) -> float:
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.ones(_CUDA_SIZE, _CUDA_SIZE, dtype=kind, device="cuda")
    for _ in range(2):  # the first product pays for choosing a kernel
        a @ a
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(_CUDA_PASSES):
        a @ a
    torch.cuda.synchronize()
    return _CUDA_PASSES * 2 * _CUDA_SIZE**3 / (time.perf_counter() - start)
