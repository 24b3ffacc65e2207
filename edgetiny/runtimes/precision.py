"""Which torch types a precision and a device come to, and what is refused.

Weights have a precision; activations and the KV cache have a torch type that follows from it.
"""

import importlib.util
import os
import shutil
from collections.abc import Mapping

import torch

from edgetiny.cost import Precision
from edgetiny.errors import ConfigError, DeviceError

DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def compute_precision(precision: Precision) -> Precision:
    """Return the precision of activations and KV cache beside weights of `precision`.

    int8 weights are widened to bf16 as they are read: torch's fp32 product with them is slower
    than fp32 weights are.
    """
    return "bf16" if precision == "int8" else precision


def precision_of(dtype: torch.dtype) -> Precision:
    """Return the name of a floating type. Raises ConfigError for one that no runtime computes."""
    for precision, known in DTYPES.items():
        if dtype == known:
            return precision
    name = str(dtype).removeprefix("torch.")
    raise ConfigError(f"weights of type {name} are not run; give --precision fp32 or bf16")


def is_cuda(device: str) -> bool:
    """Tell whether a device is a CUDA GPU: `cuda` or `cuda:1`."""
    return torch.device(device).type == "cuda"


def check_device(device: str, precision: Precision) -> None:
    """Raise a one-line error if the device is not there, or computes the precision badly."""
    if not is_cuda(device):
        if precision == "fp16":
            raise ConfigError(
                "fp16 on a CPU computes many times slower than fp32; give fp32 or bf16"
            )
        return
    if not torch.cuda.is_available():
        raise DeviceError(
            f"--device {device}: torch finds no CUDA device here; run with --device cpu"
        )
    index = torch.device(device).index or 0
    if index >= torch.cuda.device_count():
        raise DeviceError(
            f"--device {device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0"
        )


def check_tools(device: str, *, is_compiled: bool, has_kernel: bool) -> None:
    """Raise DeviceError if torch.compile or Triton would find no compiler to build with."""
    if not (is_compiled or has_kernel):
        return
    # Inductor writes C++ for a CPU; Triton builds its launchers in C.
    known = ("CC", "gcc", "clang") if is_cuda(device) else ("CXX", "g++", "clang++")
    compilers = (os.environ.get(known[0], known[1]), *known[1:])
    if not any(map(shutil.which, compilers)):
        raise DeviceError(
            f"the graph runtime compiles its steps, and there is no {known[1]} or {known[2]};"
            f" install {known[1]}, or give --runtime eager"
        )
    if (has_kernel or is_cuda(device)) and importlib.util.find_spec("triton") is None:
        raise DeviceError(
            "the graph runtime's kernel needs Triton, which torch for CUDA brings along and this"
            f" torch {torch.__version__} did not; install torch for CUDA, or give --runtime eager"
        )
