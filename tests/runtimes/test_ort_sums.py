import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import onnx
import onnxruntime as ort

from edgetiny.artefact import EXACT_SUMS
from edgetiny.runtimes import ort_sums

N_ROWS, DEPTH, N_COLUMNS = 20, 96, 48


def test_the_graph_is_what_it_says():
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("a", types.UINT8, [8, 64]),
            helper.make_tensor_value_info("b", types.INT8, [64, 16]),
        ],
        [helper.make_tensor_value_info("y", types.INT32, [8, 16])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert model.SerializeToString() == ort_sums._GRAPH


@pytest.mark.parametrize("exact", [False, True])
def test_channels_are_exact_where_it_says_so(exact):
    """What decoding multiplies by: packed channels of signed bytes, as large as they come."""
    helper, types, numpy_helper = onnx.helper, onnx.TensorProto, onnx.numpy_helper
    random = np.random.default_rng(0)
    weights = random.choice(np.array([-127, 127], np.int8), (DEPTH, N_COLUMNS))
    scales = np.full(N_COLUMNS, 0.01, np.float32)
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", types.FLOAT, [N_ROWS, DEPTH])],
        [helper.make_tensor_value_info("y", types.FLOAT, [N_ROWS, N_COLUMNS])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(scales, "s")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    if exact:
        options.add_session_config_entry(*EXACT_SUMS)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    # Values that the 255 steps from 0 to 2.55 hold, most of them large.
    x = np.minimum(random.integers(0, 600, (N_ROWS, DEPTH)), 255).astype(np.float32) / 100
    [given] = session.run(None, {"x": x})
    is_exact = np.allclose(given, x @ weights * 0.01, atol=1e-3)
    assert is_exact == (exact or not ort_sums.sums_overflow())
