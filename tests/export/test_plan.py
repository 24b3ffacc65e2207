import pytest

from edgetiny.config.export import ExportConfig
from edgetiny.errors import ConfigError
from edgetiny.export.plan import candidates, context_of, folder_of, plans


def refusal(shape, **settings):
    with pytest.raises(ConfigError) as failure:
        plans(ExportConfig(**settings), shape)
    return str(failure.value)


def test_every_format_has_its_plans_in_the_order_asked(tiny_config):
    made = plans(ExportConfig(format=("gguf", "onnx", "gguf"), precision="fp16"), tiny_config)
    assert [plan.format for plan in made] == ["gguf", "onnx"]
    assert [folder_of(plan, made) for plan in made] == ["", ""]
    assert all(plan.block_size == 0 for plan in made)


def test_a_graph_that_serves_any_batch_is_made_once(tiny_config):
    made = plans(ExportConfig(format=("gguf",), batch=(20, 1)), tiny_config)
    assert [plan.batch for plan in made] == [1]


def test_what_no_plan_has_a_use_for_is_refused(tiny_config):
    assert "fp32, batch 1 has none" in refusal(tiny_config, precision="fp32", block_size=32)
    assert "--kernel dynamic" in refusal(tiny_config, precision="fp16", kernel="dynamic")
    assert "--layout portable" in refusal(tiny_config, format=("gguf",), layout="portable")


def test_gguf_has_one_block_size(tiny_config):
    assert "blocks of 32" in refusal(tiny_config, format=("gguf",), block_size=64)


def test_a_scale_per_channel_is_no_block(tiny_config):
    [plan] = plans(ExportConfig(batch=(20,)), tiny_config)
    assert (plan.kernel, plan.block_size, plan.is_quantized) == ("dynamic", 0, True)
    message = refusal(tiny_config, batch=(20,), block_size=64)
    assert "onnx int8, batch 20 has none" in message
    both = plans(ExportConfig(batch=(1, 20), block_size=64), tiny_config)
    assert [plan.block_size for plan in both] == [64, 0]
    [nibbles] = plans(ExportConfig(batch=(20,), precision="int4", block_size=64), tiny_config)
    assert (nibbles.kernel, nibbles.block_size) == ("dynamic", 64)


@pytest.mark.parametrize(
    ("format", "settings", "reason"),
    [
        ("gguf", {"precision": "int8", "kernel": "dynamic"}, "as llama.cpp chooses"),
        ("gguf", {"precision": "int4", "kernel": "dynamic"}, "as llama.cpp chooses"),
        ("executorch", {"precision": "int8", "kernel": "weight_only"}, "leave --kernel"),
        ("executorch", {"precision": "int4", "kernel": "dynamic"}, "leave --kernel"),
        ("executorch", {"precision": "int4", "block_size": 16}, "choose 32, 64, 128, 256"),
        ("executorch", {"precision": "int8", "block_size": 64}, "has none"),
    ],
)
def test_a_kernel_that_a_format_lacks_is_refused_before_anything_is_made(
    format, settings, reason, tiny_config
):
    assert reason in refusal(tiny_config, format=(format,), **settings)


def test_a_cache_that_a_format_lacks_is_refused_with_what_it_has(tiny_config):
    message = refusal(tiny_config, format=("gguf",), kv="int8")
    assert "--kv may be fp16" in message


def test_a_browser_takes_single_sequences(tiny_config):
    assert "drop --batch 2" in refusal(tiny_config, layout="transformers-js", batch=(2,))


def test_the_context_is_checked_before_anything_else(tiny_config):
    longest = tiny_config.max_position_embeddings
    assert context_of(None, tiny_config) == longest
    with pytest.raises(ConfigError, match="positions"):
        candidates(ExportConfig(context=longest + 1), tiny_config)


def test_text_that_nothing_reads_is_an_error():
    with pytest.raises(ConfigError, match="not both"):
        ExportConfig(data="shards", calibration_text="text")
    with pytest.raises(ConfigError, match="--dry-run"):
        ExportConfig(device="device.toml")


def test_what_never_ran_takes_a_flag_and_what_cannot_be_takes_none(tiny_config):
    assert "--allow-unverified" in refusal(tiny_config, target="cuda", precision="fp16")
    [plan] = plans(
        ExportConfig(target="cuda", precision="fp16", allow_unverified=True), tiny_config
    )
    assert "cuda" in plan.name
    message = refusal(tiny_config, target="cuda", precision="int8", allow_unverified=True)
    assert "choose fp16" in message
