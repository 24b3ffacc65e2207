import importlib.util
import os

import numpy as np
import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs Triton", allow_module_level=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    # Triton's interpreter runs the kernel on the CPU; it has to be asked for before the import.
    os.environ["TRITON_INTERPRET"] = "1"

from edgetiny.checkpoint import ModelConfig  # noqa: E402
from edgetiny.init import RandomTensors  # noqa: E402
from edgetiny.runtimes import GraphRuntime, open_random  # noqa: E402
from edgetiny.runtimes.decode_attention import SingleToken  # noqa: E402
from edgetiny.runtimes.fused import Continuation, rotation_table  # noqa: E402

CAPACITY = 200


def config_of(n_heads, n_kv_heads, head_dim):
    return ModelConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=CAPACITY,
    )


@pytest.mark.parametrize(
    ("n_heads", "n_kv_heads", "head_dim", "dtype", "atol"),
    [
        (4, 4, 16, torch.float32, 1e-5),
        (4, 2, 16, torch.float32, 1e-5),
        (4, 1, 24, torch.float32, 1e-5),
        # One step of bf16 at the size of the values.
        (6, 2, 24, torch.bfloat16, 2**-6),
    ],
)
def test_the_kernel_is_the_torch_formulation(n_heads, n_kv_heads, head_dim, dtype, atol):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(device=DEVICE, dtype=dtype)

    cos, sin = rotation_table(config_of(n_heads, n_kv_heads, head_dim), CAPACITY, dtype)
    cos, sin = cos.to(DEVICE), sin.to(DEVICE)
    keys, values = (random(4, n_kv_heads, CAPACITY, head_dim) for _ in range(2))
    qkv = random(4, n_heads + 2 * n_kv_heads, 1, head_dim)
    # Nothing held, a whole block of 64, one token more, and the last that there is room for.
    positions = torch.tensor([[0], [64], [65], [CAPACITY - 1]], device=DEVICE)
    results = []
    for place in (SingleToken(positions, cos, sin), Continuation(positions, CAPACITY, cos, sin)):
        cache = keys.clone(), values.clone()
        results.append((place.attend(qkv, n_heads, *cache), *cache))
    for kernel, torch_s in zip(*results, strict=True):
        torch.testing.assert_close(kernel, torch_s, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_the_runtime_with_the_kernel_is_the_eager_one(is_compiled):
    config = config_of(4, 2, 8)
    eager = open_random(config, threads=1, device=DEVICE)
    graph = GraphRuntime(
        config,
        RandomTensors(config, std=0.02, seed=0),
        eager.path,
        threads=1,
        device=DEVICE,
        has_kernel=True,
        is_compiled=is_compiled,
    )
    tokens = np.random.default_rng(0).integers(0, 97, (3, 12))
    pair = (eager, graph)
    expected, found = (each.prefill(tokens, np.array([12, 3, 7])) for each in pair)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    for at in range(12):
        expected, found = (each.step(tokens[:, at : at + 1]) for each in pair)
        np.testing.assert_allclose(found, expected, atol=1e-4)
