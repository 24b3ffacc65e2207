"""Writing a safetensors file with one tensor in memory at a time.

Source of the format: https://github.com/huggingface/safetensors, README, "Format".
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8

Spec = tuple[torch.dtype, tuple[int, ...]]
"""What a tensor will be: known before it is made."""


def stream_tensors(path: Path, specs: Mapping[str, Spec], make: Callable[[str], Tensor]) -> None:
    """Write the tensors of `specs`, each made when its turn comes and let go of after it.

    The bytes are those of `safetensors.torch.save_file` where all are of one dtype. Wider numbers
    come first, so that each lies where it may be mapped. Raises OSError when the disk refuses.
    """
    names = sorted(specs, key=lambda name: (-specs[name][0].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        dtype, shape = specs[name]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            tensor = make(name).detach().cpu().contiguous()
            assert (tensor.dtype, tuple(tensor.shape)) == specs[name], name
            file.write(tensor.flatten().view(torch.uint8).numpy().data)
