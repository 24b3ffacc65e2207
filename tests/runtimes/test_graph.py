import numpy as np
import pytest
import torch

from edgetiny.errors import ConfigError, DeviceError
from edgetiny.model import build_model
from edgetiny.runtimes import EagerRuntime, GraphRuntime, open_random, open_runtime
from edgetiny.runtimes.graph import bucket

HAS_CUDA = torch.cuda.is_available()


@pytest.fixture
def pair(make_checkpoint):
    """Return a function that opens one checkpoint in the eager and in the graph runtime."""

    def make(precision="fp32", is_compiled=False, **settings):
        checkpoint = make_checkpoint(**{"num_key_value_heads": 2} | settings)
        eager = open_runtime(checkpoint.path, precision=precision, threads=1)
        return [eager, graph_of(checkpoint, precision=precision, is_compiled=is_compiled)]

    return make


def graph_of(checkpoint, is_compiled=False, **settings):
    tensors = checkpoint.state_dict()
    return GraphRuntime(
        checkpoint.config, tensors, checkpoint.path, threads=1, is_compiled=is_compiled, **settings
    )


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 97, (3, 12))


def assert_same(pair, call, atol=1e-4):
    eager, graph = (call(each) for each in pair)
    np.testing.assert_allclose(graph, eager, atol=atol)


def every_answer(pair, tokens, atol=1e-4):
    """Compare prompts of unequal lengths, steps of one and several tokens, rewind and score."""
    lengths = np.array([12, 3, 7])
    assert_same(pair, lambda runtime: runtime.prefill(tokens, lengths), atol)
    for width in (1, 1, 4, 1):
        assert_same(pair, lambda runtime: runtime.step(tokens[:, :width]), atol)  # noqa: B023
    for runtime in pair:
        runtime.rewind(9)
    assert_same(pair, lambda runtime: runtime.step(tokens[:, :1]), atol)
    assert_same(pair, lambda runtime: runtime.score(tokens, lengths), atol)


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("bias", ["none", "qkv", "qkvo"])
def test_every_answer_is_the_eager_runtime_s(pair, tokens, n_kv_heads, is_tied, bias):
    runtimes = pair(num_key_value_heads=n_kv_heads, tie_word_embeddings=is_tied, bias=bias)
    every_answer(runtimes, tokens)


def test_bf16_is_the_eager_runtime_s_to_its_own_rounding(pair, tokens):
    # Logits here are up to 25, where neighbours in bf16 are 0.125 apart.
    every_answer(pair("bf16"), tokens, atol=0.5)


def test_a_decode_across_buckets_stays_equal(pair, tokens, monkeypatch):
    monkeypatch.setattr("edgetiny.runtimes.graph.FIRST_BUCKET", 8)
    runtimes = pair()
    assert_same(runtimes, lambda runtime: runtime.prefill(tokens[:, :5], np.array([5, 2, 4])))
    for _ in range(59):
        assert_same(runtimes, lambda runtime: runtime.step(tokens[:, :1]))
    with pytest.raises(ConfigError, match="64 are used"):
        runtimes[1].step(tokens[:, :1])


def test_greedy_steps_continue_as_steps_do(pair, tokens):
    eager, graph = pair()
    ids = {}
    for runtime in (eager, graph):
        new = runtime.prefill(tokens, np.array([12, 3, 7])).argmax(-1)[:, None]
        kept = [new]
        for _ in range(12):
            kept.append(runtime.greedy_step(kept[-1]))
        ids[runtime] = np.concatenate(kept, axis=1)
    np.testing.assert_array_equal(ids[graph], ids[eager])
    graph.rewind(12)
    assert_same(
        (eager, graph), lambda runtime: (runtime.rewind(12), runtime.step(tokens[:, :1]))[1]
    )


def test_other_tokens_than_the_likeliest_are_taken_too(pair, tokens):
    runtimes = pair()
    assert_same(runtimes, lambda runtime: runtime.prefill(tokens, np.array([12, 3, 7])))
    for runtime in runtimes:
        runtime.greedy_step(tokens[:, :1])
    assert_same(runtimes, lambda runtime: runtime.step(tokens[:, 1:2]))


def test_ids_that_were_handed_out_may_be_edited(pair, tokens):
    """A row that has ended goes on from another token than was chosen."""
    runtimes = pair()
    assert_same(runtimes, lambda runtime: runtime.prefill(tokens, np.array([12, 3, 7])))

    def edited(runtime):
        ids = runtime.greedy_step(tokens[:, :1])
        ids[0, 0] = (ids[0, 0] + 7) % runtime.config.vocab_size
        return runtime.greedy_step(ids)

    np.testing.assert_array_equal(edited(runtimes[1]), edited(runtimes[0]))
    assert_same(runtimes, lambda runtime: runtime.step(tokens[:, 1:2]))


def test_batches_take_turns_in_one_cache(pair, tokens):
    eager, graph = pair()
    for rows in (3, 1, 2, 3):
        lengths = np.full(rows, 12)
        for _ in range(2):
            assert_same((eager, graph), lambda each: each.prefill(tokens[:rows], lengths))  # noqa: B023
            assert_same((eager, graph), lambda each: each.step(tokens[:rows, :1]))  # noqa: B023


def test_scoring_leaves_the_sequences_in_progress_alone(pair, tokens):
    _, graph = pair()
    graph.prefill(tokens, np.full(3, 12))
    expected = graph.step(tokens[:, :1])
    graph.rewind(12)
    graph.score(tokens[:2], np.full(2, 12))
    np.testing.assert_array_equal(graph.step(tokens[:, :1]), expected)


def test_a_reset_forgets_every_sequence(pair, tokens):
    _, graph = pair()
    for call in (graph.step, graph.greedy_step):
        with pytest.raises(ConfigError, match="prefill first"):
            call(tokens[:, :1])
        graph.prefill(tokens, np.full(3, 12))
        graph.reset()
        with pytest.raises(ConfigError, match="prefill first"):
            call(tokens[:, :1])


def test_int8_is_the_eager_model_of_the_rounded_weights(make_checkpoint, tokens):
    checkpoint = make_checkpoint(bias="qkv", num_key_value_heads=2)
    graph = graph_of(checkpoint, precision="int8")
    rounded = {
        name: round_rows(tensor) if tensor.ndim == 2 else tensor
        for name, tensor in checkpoint.state_dict().items()
    }
    # Both compute in bf16, where neighbours of these logits are up to 0.125 apart; the scales are
    # applied after the sums here and before them there.
    model = build_model(checkpoint.config, rounded, torch.bfloat16)
    eager = EagerRuntime(model, checkpoint.path, threads=1)
    every_answer((eager, graph), tokens, atol=0.5)


def round_rows(weight):
    """Round to 255 steps of each row's largest magnitude."""
    scales = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / scales).round() * scales


def test_capabilities_and_engine_are_as_asked(make_checkpoint):
    path = make_checkpoint().path
    runtime = open_runtime(path, runtime="graph", context=16, max_batch=2, precision="int8")
    assert runtime.capabilities.max_batch == 2
    assert runtime.capabilities.max_context == 16
    engine = runtime.engine
    assert (engine.name, engine.precision, engine.kv_dtype) == ("graph", "int8", "bf16")
    with pytest.raises(ConfigError, match="2 sequences together, not 3"):
        runtime.prefill(np.ones((3, 2), np.int64), np.full(3, 2))


def test_the_bucket_is_the_smallest_that_holds_the_sequences():
    ends = [bucket(length, 1024) for length in (1, 128, 129, 512, 513, 1024)]
    assert ends == [128, 128, 256, 512, 1024, 1024]
    # A prefix of 512 would be compiled for hardly less than the whole.
    assert bucket(300, 600) == 600
    assert bucket(3, 64) == bucket(64, 64) == 64


def test_random_weights_are_the_same_in_every_runtime(make_checkpoint, tokens):
    config = make_checkpoint().config
    runtimes = [open_random(config, runtime=name, threads=1) for name in ("eager", "graph")]
    assert_same(runtimes, lambda runtime: runtime.prefill(tokens, np.full(3, 12)))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"runtime": "onnx"}, ConfigError, "is a checkpoint: the onnx runtime"),
        ({"runtime": "eager", "precision": "int8"}, ConfigError, "no int8 weights"),
        ({"runtime": "graph", "precision": "fp16"}, ConfigError, "fp16 on a CPU"),
        ({"runtime": "graph", "context": 65}, ConfigError, "beyond the model's 64"),
        pytest.param(
            {"runtime": "graph", "device": "cuda"},
            DeviceError,
            "no CUDA device here",
            marks=pytest.mark.skipif(HAS_CUDA, reason="there is one"),
        ),
        pytest.param(
            {"runtime": "eager", "device": "cuda"},
            DeviceError,
            "no CUDA device here",
            marks=pytest.mark.skipif(HAS_CUDA, reason="there is one"),
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(make_checkpoint, settings, error, message):
    with pytest.raises(error, match=message) as refusal:
        open_runtime(make_checkpoint().path, **settings)
    assert "\n" not in str(refusal.value)


def test_an_artefact_runs_in_onnx_only(tiny_artefact):
    with pytest.raises(ConfigError, match="it runs in the onnx runtime"):
        open_runtime(tiny_artefact, runtime="graph")
    assert open_runtime(tiny_artefact, runtime="onnx", threads=1).engine.name == "onnxruntime"


# torch.compile's own use of what torch is about to drop.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_compiled_steps_give_what_plain_ones_do(make_checkpoint, tokens, precision, monkeypatch):
    monkeypatch.setattr("edgetiny.runtimes.graph.FIRST_BUCKET", 16)
    checkpoint = make_checkpoint(num_key_value_heads=2, num_hidden_layers=3)
    pair = [graph_of(checkpoint, compiled, precision=precision) for compiled in (False, True)]
    atol = 1e-4 if precision == "fp32" else 0.5
    assert_same(pair, lambda runtime: runtime.prefill(tokens, np.array([12, 3, 7])), atol)
    for _ in range(8):
        assert_same(pair, lambda runtime: runtime.step(tokens[:, :1]), atol)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.slow
def test_one_layer_is_compiled_for_all(make_checkpoint):
    from torch._dynamo.utils import counters

    counters.clear()
    runtime = graph_of(make_checkpoint(num_hidden_layers=6), is_compiled=True, context=32)
    runtime.prepare(2)
    # The embedding, a layer and the head; no layer by itself.
    assert counters["stats"]["unique_graphs"] == 3


def test_preparing_makes_every_bucket_and_forgets_the_sequences(pair, tokens, monkeypatch):
    monkeypatch.setattr("edgetiny.runtimes.graph.FIRST_BUCKET", 8)
    runtimes = pair()
    for runtime in runtimes:
        runtime.prepare(3)
        with pytest.raises(ConfigError, match="prefill first"):
            runtime.step(tokens[:, :1])
    assert sorted(runtimes[1]._decodings[3]._steps) == [8, 16, 32, 64]
    every_answer(runtimes, tokens)


def test_without_a_compiler_the_refusal_is_one_line(make_checkpoint, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(DeviceError, match=r"no g\+\+ or clang\+\+"):
        open_runtime(make_checkpoint().path, runtime="graph")
