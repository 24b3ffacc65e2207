import pytest
import torch

from edgetiny.model import build_model
from edgetiny.quantize import Scheme, Weights, simulated
from edgetiny.quantize.simulate import round_dynamically


def test_full_precision_changes_nothing(tiny_checkpoint):
    tensors = tiny_checkpoint.state_dict()
    tokens = torch.arange(20)[None]
    model = simulated(Weights(tiny_checkpoint.config, tensors, Scheme(precision="fp32")))
    with torch.inference_mode():
        wanted = build_model(tiny_checkpoint.config, tensors)(tokens)
        assert torch.equal(model(tokens), wanted)


@pytest.mark.parametrize(
    ("scheme", "most"),
    [
        ({"precision": "int8"}, 0.04),
        ({"precision": "int8", "kernel": "dynamic"}, 0.1),
        ({"precision": "int4"}, 0.5),
        ({"precision": "int4", "kernel": "dynamic"}, 0.5),
    ],
)
def test_logits_are_near_and_not_the_same(tiny_checkpoint, scheme, most):
    tensors = tiny_checkpoint.state_dict()
    tokens = torch.arange(20)[None]
    with torch.inference_mode():
        wanted = build_model(tiny_checkpoint.config, tensors)(tokens)
        found = simulated(Weights(tiny_checkpoint.config, tensors, Scheme(**scheme)))(tokens)
    error = float((found - wanted).std() / wanted.std())
    assert 0 < error < most


def test_four_bits_multiplied_as_channels_lose_more_than_as_blocks(tiny_checkpoint):
    tensors = tiny_checkpoint.state_dict()
    kernels = ("weight_only", "dynamic")
    one, other = (
        simulated(
            Weights(tiny_checkpoint.config, tensors, Scheme(precision="int4", kernel=kernel))
        ).get_submodule("model.layers.0.mlp.up_proj")
        for kernel in kernels
    )
    error = (one.weight - other.weight).abs()
    assert 0 < error.max() <= one.weight.abs().max() / 127 * 0.5001


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_activations_are_off_by_half_a_step_at_most_and_zero_is_exact(shift):
    x = torch.randn(7, 33, generator=torch.Generator().manual_seed(0)) + shift
    x[0, 0] = 0
    rounded = round_dynamically(x)
    step = (x.amax().clamp(min=0) - x.amin().clamp(max=0)) / 255
    # The ends may lose another half step to the rounding of the zero point.
    assert (rounded - x).abs().max() <= step * 1.0001
    assert (rounded - x).abs().median() <= step * 0.5001
    assert rounded[0, 0] == 0


def test_activations_of_zeros_stay_zeros():
    assert torch.equal(round_dynamically(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_rounding_activations_agrees_with_onnxruntime():
    onnxruntime = pytest.importorskip("onnxruntime")
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "activations",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    (wanted,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(round_dynamically(x), torch.from_numpy(wanted))
