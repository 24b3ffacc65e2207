import numpy as np
import pytest

from edgetiny.errors import ConfigError
from edgetiny.runtimes import GraphRuntime, open_random, open_runtime
from edgetiny.runtimes.launches import host_calls, launches_per_step


def of_depth(make_checkpoint, n_layers, name):
    config = make_checkpoint(f"{name}-{n_layers}", num_hidden_layers=n_layers).config
    if name == "eager":
        return launches_per_step(open_random(config, threads=1), 2)
    checkpoint = make_checkpoint(f"{name}-again-{n_layers}", num_hidden_layers=n_layers)
    tensors = checkpoint.state_dict()
    runtime = GraphRuntime(config, tensors, checkpoint.path, threads=1, is_compiled=False)
    return launches_per_step(runtime, 2)


@pytest.mark.parametrize("name", ["eager", "graph"])
def test_every_layer_costs_the_same_launches(make_checkpoint, name):
    calls = [of_depth(make_checkpoint, n_layers, name).calls for n_layers in (1, 2, 3)]
    assert calls[1] - calls[0] == calls[2] - calls[1] > 0


def test_counting_leaves_no_sequence_behind(make_checkpoint):
    runtime = open_random(make_checkpoint().config, threads=1)
    first = launches_per_step(runtime, 2)
    with pytest.raises(ConfigError, match="prefill first"):
        runtime.greedy_step(np.zeros((2, 1), np.int64))
    assert launches_per_step(runtime, 2) == first


def test_a_compiled_cpu_step_has_none_to_count(make_checkpoint):
    runtime = open_runtime(make_checkpoint().path, runtime="graph", threads=1)
    with pytest.raises(ConfigError, match="open it uncompiled"):
        launches_per_step(runtime, 1)


def test_only_launches_of_kernels_and_graphs_are_counted():
    names = ["cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaGraphLaunch"]
    others = ["cudaMemcpyAsync", "cudaStreamSynchronize", "aten::mm", "cudaGraphInstantiate"]
    assert host_calls(names + others) == len(names)
