"""Which torch types a precision and a device come to, and what is refused.

Weights have a precision; activations and the KV cache have a torch type that follows from it.
"""

from collections.abc import Mapping

import torch

from edgetiny.cost import Precision
from edgetiny.errors import ConfigError, DeviceError

DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def compute_precision(precision: Precision, device: str) -> Precision:
    """Return the precision of activations and KV cache beside weights of `precision`.

    int8 weights are widened as they are read: to bf16 on a GPU, to fp32 on a CPU.
    """
    if precision != "int8":
        return precision
    return "bf16" if is_cuda(device) else "fp32"


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
