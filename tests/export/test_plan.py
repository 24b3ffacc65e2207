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
    assert "has no blocks" in refusal(tiny_config, precision="fp32", block_size=32)
    assert "--layout portable" in refusal(tiny_config, format=("gguf",), layout="portable")


def test_gguf_has_one_block_size(tiny_config):
    assert "blocks of 32" in refusal(tiny_config, format=("gguf",), block_size=64)


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
