import numpy as np
import pytest

pytest.importorskip("onnxruntime")


# Widths of 40 and 52 fill no block of 32 up.
@pytest.fixture(scope="module", params=[{}, {"hidden_size": 40, "intermediate_size": 52}])
def graph(request, tiny_config, tmp_path_factory):
    from dataclasses import replace

    from edgetiny.export.lower import lower_onnx
    from edgetiny.export.plan import Plan
    from edgetiny.init import RandomTensors
    from edgetiny.quantize import Scheme, Weights

    config = replace(tiny_config, **request.param)
    folder = tmp_path_factory.mktemp("graph")
    plan = Plan(
        format="onnx",
        layout="edgetiny",
        precision="int4",
        kernel="dynamic",
        block_size=32,
        kv_dtype="fp32",
        batch=20,
        context=64,
    )
    scheme = Scheme(precision="int4", kernel="weight_only", block_size=32, kv="fp32")
    weights = Weights(config, RandomTensors(config, std=0.1, seed=0), scheme)
    lower_onnx(folder, weights, plan, lambda *_: None)
    return folder / "model.onnx"


def answers(session):
    from edgetiny.runtimes.ort_graph import graph_of

    tokens = np.random.default_rng(0).integers(0, 500, (3, 8))
    graph = graph_of(session)
    return graph.run(tokens, np.full(3, 8), graph.new_cache(3, 64), np.arange(24))


def test_the_bytes_are_those_that_onnxruntime_computes(graph):
    from edgetiny.runtimes.ort import open_session

    given = answers(open_session(graph, 1, expanded=True))
    np.testing.assert_array_equal(given, answers(open_session(graph, 1)))
    assert np.ptp(given) > 0


def test_what_is_loaded_has_no_step_left_to_compute(graph, tmp_path):
    import onnx

    from edgetiny.runtimes.ort_expand import expand

    kinds = {node.op_type for node in onnx.load(graph, load_external_data=False).graph.node}
    assert "BitwiseAnd" in kinds
    loaded = onnx.load_from_string(expand(graph, tmp_path)).graph
    left = {node.op_type for node in loaded.node}
    assert "DynamicQuantizeMatMul" in left
    assert left.isdisjoint({"BitwiseAnd", "BitShift", "Round"})
    # Only the expanded bytes are outside of the graph.
    outside = [each for each in loaded.initializer if each.external_data]
    assert {each.data_type for each in outside} == {onnx.TensorProto.INT8}
    assert len(outside) == sum(node.op_type == "DynamicQuantizeMatMul" for node in loaded.node)


def test_the_largest_weight_of_every_output_reaches_the_end_of_a_byte(graph, tmp_path):
    import onnx

    from edgetiny.runtimes.ort_expand import expand

    loaded = onnx.load_from_string(expand(graph, tmp_path)).graph
    outside = [each for each in loaded.initializer if each.external_data]
    for each in outside:
        onnx.external_data_helper.load_external_data_for_tensor(each, str(tmp_path))
        largest = np.abs(onnx.numpy_helper.to_array(each).astype(np.int32)).max(axis=0)  # (N,)
        assert set(largest) - {127} <= {0}  # heads are filled up with rows of zeros
