from dataclasses import replace

import numpy as np
import pytest
import torch

from edgetiny.export.plan import Plan
from edgetiny.init import RandomTensors
from edgetiny.model import build_model
from edgetiny.quantize import KVScales, Scheme, Weights, dequantize, dequantize_channels
from edgetiny.quantize.blocks import BlockWeight
from edgetiny.quantize.channels import ChannelWeight

pytest.importorskip("onnxruntime")

PLAN = Plan(
    format="onnx",
    layout="edgetiny",
    precision="fp32",
    kernel="weight_only",
    block_size=32,
    kv_dtype="fp32",
    batch=1,
    context=64,
)
SHAPES = {
    "grouped heads of 8": {},
    "heads of 40, biases": {"head_dim": 40, "bias": "qkvo"},
    "heads of 16, all their own, untied": {
        "head_dim": 16,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "heads of 128, one group, odd widths": {
        "head_dim": 128,
        "num_key_value_heads": 1,
        "hidden_size": 40,
        "intermediate_size": 52,
        "bias": "qkv",
    },
    "heads of 64": {"head_dim": 64, "num_attention_heads": 2, "num_key_value_heads": 1},
}


def weights_of(config, plan, *, kv_scale=0.02):
    # What is multiplied as int8 channels may be stored as blocks of four bits.
    kernel = plan.kernel if plan.precision == "int8" else "weight_only"
    scheme = Scheme(
        precision=plan.precision, kernel=kernel, block_size=plan.block_size, kv=plan.kv_dtype
    )
    shape = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
    scales = KVScales(torch.full(shape, kv_scale), torch.full(shape, kv_scale))
    kv_scales = scales if plan.kv_dtype == "int8" else None
    return Weights(config, RandomTensors(config, std=0.1, seed=0), scheme, kv_scales=kv_scales)


def lowered(folder, config, plan):
    from edgetiny.export.lower import lower_onnx

    return lower_onnx(folder, weights_of(config, plan), plan, lambda *_: None)


def graph_of(folder, file="model.onnx"):
    from edgetiny.runtimes.ort import open_session
    from edgetiny.runtimes.ort_graph import graph_of

    return graph_of(open_session(folder / file, 1))


def reference(config, plan):
    """Return the model that the stored weights stand for."""
    weights = weights_of(config, plan)
    tensors = {}
    for name, tensor in RandomTensors(config, std=0.1, seed=0).items():
        if tensor.dim() == 1:
            tensors[name] = tensor
            continue
        stored = weights.linear(name)
        if isinstance(stored, BlockWeight):
            stored = dequantize(stored)
        if isinstance(stored, ChannelWeight):
            stored = dequantize_channels(stored)
        tensors[name] = stored.float()
    return build_model(config, tensors, torch.float32)


def answers(folder, config, tokens, file="model.onnx"):
    """Return the logits (B, T, V) of prefilling all but the last token and appending that."""
    graph = graph_of(folder, file)
    B, T = tokens.shape
    cache = graph.new_cache(B, 16)
    first = graph.run(tokens[:, :-1], np.full(B, T - 1), cache, np.arange(B * (T - 1)))
    last = graph.run(tokens[:, -1:], np.full(B, T), cache, np.arange(B))
    return np.concatenate((first.reshape(B, T - 1, -1), last[:, None]), axis=1)


def error(given, wanted):
    """Return the root mean square of the difference, as a share of that of what is wanted."""
    return float(np.sqrt(np.square(given - wanted).mean() / np.square(wanted).mean()))


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, 512, (3, 9))


def logits_of(config, plan, tokens):
    with torch.no_grad():
        return reference(config, plan)(torch.from_numpy(tokens)).numpy()


@pytest.mark.parametrize("layout", ["edgetiny", "portable"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_fp32_is_the_model(shape, layout, tiny_config, tokens, tmp_path):
    config, plan = replace(tiny_config, **shape), replace(PLAN, layout=layout)
    lowered(tmp_path, config, plan)
    given = answers(tmp_path, config, tokens)
    np.testing.assert_allclose(given, logits_of(config, plan, tokens), atol=1e-4)


@pytest.mark.parametrize(
    ("precision", "kernel", "bound"),
    [
        ("fp16", "weight_only", 1e-5),
        ("int8", "weight_only", 0.02),
        ("int8", "dynamic", 0.03),
        ("int4", "weight_only", 0.02),
        ("int4", "dynamic", 0.04),
    ],
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_stored_weights_are_multiplied_as_what_they_stand_for(
    shape, precision, kernel, bound, tiny_config, tokens, tmp_path
):
    config = replace(tiny_config, **shape)
    plan = replace(PLAN, precision=precision, kernel=kernel)
    lowered(tmp_path, config, plan)
    given = answers(tmp_path, config, tokens)
    assert error(given, logits_of(config, plan, tokens)) < bound


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_int8_cache_answers_nearly_as_a_float_one(shape, tiny_config, tokens, tmp_path):
    config, plan = replace(tiny_config, **shape), replace(PLAN, kv_dtype="int8")
    lowered(tmp_path, config, plan)
    graph = graph_of(tmp_path)
    assert {array.dtype.name for array in graph.new_cache(1, 4).values()} == {"int8"}
    assert error(answers(tmp_path, config, tokens), logits_of(config, plan, tokens)) < 0.03


@pytest.mark.parametrize("block_size", [16, 64, 128])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_every_block_size_is_padded_exactly(precision, block_size, tiny_config, tokens, tmp_path):
    # 32 and 48 inputs are no multiple of the larger blocks.
    plan = replace(PLAN, precision=precision, block_size=block_size)
    lowered(tmp_path, tiny_config, plan)
    given = answers(tmp_path, tiny_config, tokens)
    assert error(given, logits_of(tiny_config, plan, tokens)) < 0.02


def test_identical_weights_give_identical_bytes(tiny_config, tmp_path):
    contents = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        files = lowered(tmp_path / name, tiny_config, replace(PLAN, precision="int4")).files
        contents.append([(tmp_path / name / file).read_bytes() for file in files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("precision", "kernel"), [("int8", "weight_only"), ("int4", "dynamic")])
def test_a_layer_is_ten_nodes(precision, kernel, tiny_config, tmp_path):
    plan = replace(PLAN, precision=precision, kernel=kernel, kv_dtype="int8")
    config = replace(tiny_config, head_dim=16)
    nodes = lowered(tmp_path, config, plan).nodes
    deeper = lowered(tmp_path, replace(config, num_hidden_layers=3), plan).nodes
    assert sum(deeper.values()) - sum(nodes.values()) == 10
    assert nodes["GroupQueryAttention"] == config.num_hidden_layers
    product = "MatMulNBits" if kernel == "weight_only" else "DynamicQuantizeMatMul"
    assert nodes[product] == 5 * config.num_hidden_layers + 1


def test_four_bits_take_at_most_four_and_a_half_a_weight(tiny_config, tmp_path):
    config = replace(tiny_config, hidden_size=256, intermediate_size=512, vocab_size=4096)
    for kernel in ("weight_only", "dynamic"):
        plan = replace(PLAN, precision="int4", kernel=kernel, block_size=128)
        lowered(tmp_path, config, plan)
        n_weights = sum(tensor.numel() for tensor in RandomTensors(config, std=1, seed=0).values())
        size = (tmp_path / "model.onnx.data").stat().st_size
        assert size * 8 / n_weights < 4.5


def test_a_tied_head_shares_the_bytes_of_the_embedding(tiny_config, tmp_path):
    sizes = []
    for is_tied in (True, False):
        config = replace(tiny_config, tie_word_embeddings=is_tied)
        lowered(tmp_path, config, replace(PLAN, precision="int8", kernel="dynamic"))
        sizes.append((tmp_path / "model.onnx.data").stat().st_size)
    table = config.vocab_size * (config.hidden_size + 4)
    assert sizes[1] - sizes[0] == pytest.approx(table, abs=128)


def test_a_browser_finds_its_own_file_names(tiny_config, tmp_path, tokens):
    plan = replace(PLAN, layout="transformers-js", precision="int4")
    files = lowered(tmp_path, tiny_config, plan).files
    assert files == ["model_q4.onnx", "model_q4.onnx_data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    answers(tmp_path, tiny_config, tokens, file="model_q4.onnx")


def test_a_stepper_keeps_its_cache_alive(tiny_config, tmp_path, tokens):
    import gc

    lowered(tmp_path, tiny_config, PLAN)
    graph = graph_of(tmp_path)
    stepper = graph.stepper(graph.new_cache(3, 16))
    gc.collect()
    for at in range(tokens.shape[1]):
        logits, _ = stepper.step(tokens[:, at : at + 1], np.full(3, at + 1))
    wanted = logits_of(tiny_config, PLAN, tokens)[:, -1]
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
