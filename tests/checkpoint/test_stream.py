import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgetiny.checkpoint.stream import stream_tensors

SHAPES = {"b.weight": (3, 5), "a.bias": (7,), "c": (0, 4), "d.10": (), "d.9": (2, 1, 3)}


def specs_of(tensors):
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_the_bytes_are_those_of_safetensors(tmp_path, dtype):
    tensors = {name: (torch.randn(shape) * 9).to(dtype) for name, shape in SHAPES.items()}
    stream_tensors(tmp_path / "ours", specs_of(tensors), tensors.__getitem__)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_mixed_dtypes_and_views_are_read_back(tmp_path):
    wide = torch.randn(6, 4)
    tensors = {
        "flag": torch.tensor([True, False, True]),
        "turned": wide.T,
        "part": wide[2:4, 1:],
        "half": wide.bfloat16(),
        "steps": torch.tensor(7),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    stream_tensors(tmp_path / "file", specs_of(tensors), tensors.__getitem__)
    read = load_file(tmp_path / "file")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor), name


def test_one_tensor_is_held_at_a_time(tmp_path):
    alive: list[weakref.ref[torch.Tensor]] = []

    def make(name):
        assert all(each() is None for each in alive[:-1])
        tensor = torch.ones(4)
        alive.append(weakref.ref(tensor))
        return tensor

    stream_tensors(tmp_path / "file", dict.fromkeys("abcd", (torch.float32, (4,))), make)
    assert len(alive) == 4
