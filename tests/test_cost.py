import math
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgetiny.checkpoint import ModelConfig, write_checkpoint
from edgetiny.cost import (
    Precision,
    device_roofline,
    forward_flops_per_token,
    kv_bytes_per_token,
    mean_context,
    parameters,
    roofline,
    run_memory,
    step_cost,
    tensor_bytes,
    training_flops_per_token,
    weight_bytes,
)
from edgetiny.device import Device
from edgetiny.errors import DeviceError
from edgetiny.model import Transformer


def _config(
    *,
    width: int = 32,
    ffn: int = 80,
    depth: int = 2,
    vocabulary: int = 160,
    heads: int = 4,
    kv_heads: int | None = None,
    tied: bool = True,
    bias: str = "none",
) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        head_dim=width // heads,
        tie_word_embeddings=tied,
        bias=bias,  # type: ignore[arg-type]
    )


def _paper(depth: int, width: int, ffn: int, vocabulary: int = 48_000) -> ModelConfig:
    heads = width // 128
    return _config(
        width=width, ffn=ffn, depth=depth, vocabulary=vocabulary, heads=heads, tied=False
    )


@pytest.mark.parametrize(
    ("vocabulary", "depth", "share_percent"),
    [
        (8_000, 24, 2.97),
        (16_000, 23, 6.01),
        (32_000, 22, 11.79),
        (48_000, 20, 18.07),
        (72_000, 18, 26.88),
        # "100k" is no round number: 100,824 to 100,865 give 38.19 after rounding.
        (100_864, 15, 38.19),
    ],
)
def test_table_1_shares_of_embedding_and_head(
    vocabulary: int, depth: int, share_percent: float
) -> None:
    share = parameters(_paper(depth, 1792, 4864, vocabulary)).embedding_and_head_share
    assert round(100 * share, 2) == share_percent


@pytest.mark.parametrize(
    ("depth", "width", "ffn", "millions", "v100_ms"),
    [
        (40, 1280, 3584, 936, 3.10),
        (30, 1536, 4096, 997, 3.15),
        (20, 1792, 4864, 952, 2.78),
        (15, 2048, 5632, 967, 2.65),
        (9, 2560, 6912, 959, 2.42),
    ],
)
def test_table_2_sizes_and_limits(
    depth: int, width: int, ffn: int, millions: int, v100_ms: float
) -> None:
    config = _paper(depth, width, ffn)
    assert round(parameters(config).total / 1e6) == millions
    step = step_cost(config, "fp16", 20, mean_context(2, 510), kv_precision="fp16")
    # 900 GB/s and 125 TFLOP/s are the V100's data sheet; the figures were derived apart from us.
    limit = roofline(step, bytes_per_s=900e9, flops_per_s=125e12)
    assert limit.bound == "memory"
    assert limit.step_s * 1e3 == pytest.approx(v100_ms, rel=0.02)


def test_published_mobilellm_sizes() -> None:
    small = _config(width=576, ffn=1536, depth=30, vocabulary=32_000, heads=9, kv_heads=3)
    large = _config(width=960, ffn=2560, depth=32, vocabulary=32_000, heads=15, kv_heads=5)
    assert round(parameters(small).total / 1e6, 1) == 124.6
    assert round(parameters(large).total / 1e6, 1) == 345.4


@pytest.mark.parametrize("bias", ["none", "qkv", "qkvo"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model(tied: bool, bias: str) -> None:
    config = _config(kv_heads=2, tied=tied, bias=bias)
    model = Transformer(config)
    assert parameters(config).total == sum(tensor.numel() for tensor in model.parameters())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_weight_bytes_are_those_on_disk(
    precision: Precision, dtype: torch.dtype, tmp_path: Path
) -> None:
    config = _config(tied=False)
    tensors = {name: t.to(dtype) for name, t in Transformer(config).tensors().items()}
    write_checkpoint(
        tmp_path, config, tensors, stage="init", settings={}, parent=None, tokenizer=None
    )
    on_disk = (tmp_path / "model.safetensors").stat().st_size
    header = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little") + 8
    assert weight_bytes(config, precision).total == on_disk - header


def test_int8_pads_the_last_block_of_each_row() -> None:
    assert tensor_bytes((3, 64), "int8", 32) == 3 * 2 * (32 + 2)
    assert tensor_bytes((3, 65), "int8", 32) == 3 * 3 * (32 + 2)
    assert tensor_bytes((64,), "int8", 32) == 64 * 4


def test_int4_is_four_and_a_half_bits_a_weight() -> None:
    assert tensor_bytes((3, 64), "int4", 32) == 3 * 2 * (16 + 2) == 3 * 64 * 4.5 / 8
    assert tensor_bytes((3, 65), "int4", 32) == 3 * 3 * (16 + 2)
    assert tensor_bytes((3, 65), "int4", 0) == 3 * (33 + 4)
    assert tensor_bytes((64,), "int4", 32) == 64 * 4


def test_tied_table_is_stored_once_unless_precisions_differ() -> None:
    config = _config()
    same = weight_bytes(config, "int8")
    mixed = weight_bytes(config, "int8", embedding="fp32")
    assert same.head == 0
    assert mixed.head == same.embedding
    assert mixed.embedding == config.vocab_size * config.hidden_size * 4


def test_step_reads_the_head_whole_and_one_embedding_row_a_sequence() -> None:
    config = _config()
    one, three = (step_cost(config, "fp32", batch, 10) for batch in (1, 3))
    row = 4 * config.hidden_size
    assert one.weight_bytes == 4 * parameters(config).total + row
    assert three.weight_bytes - one.weight_bytes == 2 * row
    assert three.kv_bytes == 3 * one.kv_bytes == 3 * 10 * kv_bytes_per_token(config)
    untied = step_cost(_config(tied=False), "fp32", 1, 10)
    assert untied.weight_bytes == one.weight_bytes


def test_gqa_divides_the_cache() -> None:
    full, grouped = _config(), _config(kv_heads=1)
    assert kv_bytes_per_token(full) == 4 * kv_bytes_per_token(grouped)
    assert kv_bytes_per_token(full, "int8") * 4 == kv_bytes_per_token(full, "fp32")


def test_mean_context_is_the_mean_over_the_steps() -> None:
    prompt, new = 2, 510
    config = _config()
    steps = [step_cost(config, "fp32", 4, prompt + i) for i in range(1, new)]
    mean = step_cost(config, "fp32", 4, mean_context(prompt, new))
    assert math.isclose(mean.kv_bytes, sum(step.kv_bytes for step in steps) / len(steps))
    assert math.isclose(mean.flops, sum(step.flops for step in steps) / len(steps))


@pytest.mark.parametrize("bias", ["none", "qkvo"])
def test_matrix_flops_are_those_torch_counts(bias: str) -> None:
    config = _config(kv_heads=2, bias=bias)
    n_tokens = 7
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Transformer(config)(torch.zeros(1, n_tokens, dtype=torch.long))
    counted = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    products = sum(flops for op, flops in counted.items() if op in ("aten.mm", "aten.addmm"))
    assert products == n_tokens * forward_flops_per_token(config, 0)


def test_training_is_six_operations_a_weight_and_attention() -> None:
    config = _config()
    n_matrix = parameters(config).total - parameters(config).norms
    attention = 12 * config.num_hidden_layers * config.hidden_size * (9 + 1) / 2
    assert training_flops_per_token(config, 9) == 6 * n_matrix + attention


def test_run_memory_adds_up() -> None:
    config = _config()
    memory = run_memory(config, "int8", 20, 512, kv_precision="int8")
    assert memory.weights == weight_bytes(config, "int8").total
    assert memory.kv_cache == 20 * 512 * kv_bytes_per_token(config, "int8")
    assert memory.total == memory.weights + memory.kv_cache + 20 * config.vocab_size * 4


def _device(**rates: float) -> Device:
    return Device(
        name="box",
        source="made up",
        cpu="none",
        cores=1,
        threads=1,
        ram_bytes=2**30,
        llc_bytes=None,
        read_bandwidth_bytes_per_s=1e9,
        gemm_flops_per_s=rates,
    )


def test_device_limits_by_memory_or_by_arithmetic() -> None:
    step = step_cost(_config(), "fp32", 8, 100)
    fast = device_roofline(step, "fp32", _device(fp32=1e15))
    slow = device_roofline(step, "fp32", _device(fp32=1e3))
    assert (fast.bound, slow.bound) == ("memory", "compute")
    assert fast.step_s == step.total_bytes / 1e9
    assert slow.tokens_per_s == pytest.approx(8 / (step.flops / 1e3))


def test_fp16_counts_at_fp32_where_it_is_cast() -> None:
    step = step_cost(_config(), "fp16", 8, 100)
    cast = device_roofline(step, "fp16", _device(fp32=1e9))
    native = device_roofline(step, "fp16", _device(fp32=1e9, fp16=2e9))
    assert cast.compute_s == 2 * native.compute_s


def test_device_without_the_rate_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"no int8 rate .* it has: fp32"):
        device_roofline(step_cost(_config(), "int8", 1, 1), "int8", _device(fp32=1e9))


def test_int4_is_multiplied_as_int8() -> None:
    step = step_cost(_config(), "int4", 8, 100)
    limit = device_roofline(step, "int4", _device(int8=1e9))
    assert limit.compute_s == step.flops / 1e9
    with pytest.raises(DeviceError, match="no int8 rate"):
        device_roofline(step, "int4", _device(fp32=1e9))
