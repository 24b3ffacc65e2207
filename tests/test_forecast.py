from dataclasses import replace

import pytest

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.export import ExportConfig
from edgetiny.device import Device
from edgetiny.errors import DeviceError
from edgetiny.export.plan import plans
from edgetiny.forecast import Lowering, Reach, file_bytes, held_bytes

DEVICE = Device(
    name="desk",
    source="made up",
    cpu="none",
    cores=2,
    threads=2,
    ram_bytes=10**10,
    llc_bytes=None,
    read_bandwidth_bytes_per_s=50e9,
    gemm_flops_per_s={"fp32": 2e11, "int8": 2e12},
)
SHAPE = ModelConfig(
    vocab_size=4_000,
    hidden_size=320,
    intermediate_size=896,
    num_hidden_layers=8,
    num_attention_heads=5,
    num_key_value_heads=5,
    head_dim=64,
)


def usual(precision="int8", batch=1, kv="fp32"):
    return Lowering.usual(precision, kv=kv, batch=batch, context=512)


def seconds(lowering, shape=SHAPE, reach=None, device=DEVICE):
    n_layers, n_heads = shape.num_hidden_layers, shape.num_attention_heads
    step = lowering.step(shape, 256)
    return (reach or Reach()).step_s(lowering, step, n_layers, n_heads, device)


@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_the_usual_lowering_is_what_export_plans(precision, batch):
    [plan] = plans(ExportConfig(precision=precision, batch=(batch,), context=512), SHAPE)
    lowering = usual(precision, batch)
    assert (plan.kernel, plan.kv_dtype, plan.context) == (lowering.kernel, "fp32", 512)
    assert plan.block_size in (0, lowering.block_size)


@pytest.mark.parametrize("batch", [1, 20])
def test_a_step_is_never_faster_than_the_machine(batch):
    for precision in ("fp32", "fp16", "int8", "int4"):
        lowering = usual(precision, batch)
        step = lowering.step(SHAPE, 256)
        assert seconds(lowering) > step.total_bytes / DEVICE.read_bandwidth_bytes_per_s


def test_a_batch_takes_longer_a_step_and_less_a_token():
    one, twenty = seconds(usual(batch=1)), seconds(usual(batch=20))
    assert one < twenty < 20 * one


def test_a_small_cache_is_faster_and_smaller():
    small, large = usual(batch=20, kv="int8"), usual(batch=20, kv="fp32")
    assert seconds(small) < seconds(large)
    assert held_bytes(small, SHAPE) < held_bytes(large, SHAPE)
    assert file_bytes(small, SHAPE) == file_bytes(large, SHAPE)


def test_four_bits_for_a_batch_are_half_on_disk_and_bytes_in_memory():
    eight, four = usual("int8", 20), usual("int4", 20)
    assert file_bytes(four, SHAPE) < 0.6 * file_bytes(eight, SHAPE)
    assert held_bytes(four, SHAPE) == held_bytes(eight, SHAPE)


def test_a_given_reach_is_the_limit_and_the_layers_alone():
    step = usual().step(SHAPE, 256)
    limit_s = step.total_bytes / DEVICE.read_bandwidth_bytes_per_s
    found = seconds(usual(), reach=Reach(share=0.5, layer_overhead_s=1e-3))
    assert found == pytest.approx(2 * limit_s + 8e-3)


def test_a_device_without_the_rate_is_refused():
    slate = replace(DEVICE, gemm_flops_per_s={"fp32": 1e11})
    with pytest.raises(DeviceError, match="no int8 rate"):
        seconds(usual("int8", 20), device=slate)
