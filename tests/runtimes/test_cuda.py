"""The runtimes on a GPU; skipped where there is none, and never run when it was written."""

import numpy as np
import pytest
import torch

from edgetiny.runtimes import GraphRuntime, open_runtime
from edgetiny.runtimes.launches import launches_per_step

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]
LENGTHS = np.array([12, 3, 7])


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 97, (3, 12))


def answers(runtime, tokens):
    """Return logits of a prompt, steps, a rewind, and the scores; then the ids of greedy steps."""
    found = [runtime.prefill(tokens, LENGTHS)]
    found += [runtime.step(tokens[:, :width]) for width in (1, 1, 4, 1)]
    runtime.rewind(9)
    found += [runtime.step(tokens[:, :1]), runtime.score(tokens, LENGTHS)]
    ids = [runtime.prefill(tokens, LENGTHS).argmax(-1)[:, None]]
    for _ in range(20):
        ids.append(runtime.greedy_step(ids[-1]))
    return found, np.concatenate(ids, axis=1)


def assert_same(runtime, reference, tokens, atol):
    (found, ids), (expected, expected_ids) = answers(runtime, tokens), answers(reference, tokens)
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, other, atol=atol)
    if atol < 0.01:
        np.testing.assert_array_equal(ids, expected_ids)


def graph_of(checkpoint, **settings):
    tensors = checkpoint.state_dict()
    return GraphRuntime(checkpoint.config, tensors, checkpoint.path, device="cuda", **settings)


@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_eager_is_the_cpu_s(make_checkpoint, tokens, n_kv_heads):
    path = make_checkpoint(num_key_value_heads=n_kv_heads).path
    assert_same(open_runtime(path, device="cuda"), open_runtime(path), tokens, 1e-3)


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("has_kernel", [False, True])
@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-3), ("bf16", 0.5), ("fp16", 0.1)])
def test_graph_is_eager(
    make_checkpoint, tokens, monkeypatch, is_compiled, has_kernel, precision, atol
):
    monkeypatch.setattr("edgetiny.runtimes.graph.FIRST_BUCKET", 16)
    checkpoint = make_checkpoint(num_key_value_heads=2, bias="qkv")
    graph = graph_of(
        checkpoint, precision=precision, is_compiled=is_compiled, has_kernel=has_kernel
    )
    eager = open_runtime(checkpoint.path, device="cuda", precision=precision)
    assert_same(graph, eager, tokens, atol)


@pytest.mark.slow
def test_int8_is_the_cpu_s(make_checkpoint, tokens):
    checkpoint = make_checkpoint(num_key_value_heads=2)
    on_cpu = GraphRuntime(
        checkpoint.config,
        checkpoint.state_dict(),
        checkpoint.path,
        precision="int8",
        is_compiled=False,
    )
    assert_same(graph_of(checkpoint, precision="int8"), on_cpu, tokens, 0.5)


def test_a_step_is_one_launch_at_any_depth(make_checkpoint):
    for n_layers in (1, 4):
        checkpoint = make_checkpoint(f"of-{n_layers}", num_hidden_layers=n_layers)
        graph = graph_of(checkpoint, is_compiled=False)
        assert launches_per_step(graph, 2).calls == 1
