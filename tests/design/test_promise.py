from dataclasses import replace

import pytest

from edgetiny.checkpoint import ModelConfig
from edgetiny.design.candidate import Candidate, Use
from edgetiny.design.promise import Limits, Line, best_design
from edgetiny.device import Device
from edgetiny.errors import ConfigError

PHONE = Device(
    name="phone",
    source="made up",
    cpu="none",
    cores=4,
    threads=4,
    ram_bytes=4 * 10**9,
    llc_bytes=None,
    read_bandwidth_bytes_per_s=15e9,
    gemm_flops_per_s={"fp32": 50e9, "int8": 300e9},
)
USE = Use(batch=1, context=512, kv_precision="fp32", device=PHONE)
BIG = ModelConfig(
    vocab_size=32_000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=64,
    tie_word_embeddings=False,
)


def best(source=BIG, vocab=None, precisions=(), use=USE, **limits):
    return best_design(source, Limits(**limits), use, precisions, vocab)[0]


@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_line_is_the_cost_at_every_depth(batch, precision):
    use = replace(USE, batch=batch)
    line = Line(replace(BIG, num_hidden_layers=1), precision, use)
    for depth in (1, 7, 22):
        whole = Candidate(
            config=replace(BIG, num_hidden_layers=depth), precision=precision, use=use
        )
        assert line.value("max_mb", depth) == whole.file_bytes / 1e6
        assert line.value("max_ram_mb", depth) == whole.ram_bytes / 1e6
        assert line.value("max_pehf", depth) == pytest.approx(whole.pehf)
        assert line.value("min_tok_s", depth) == pytest.approx(whole.tokens_per_s)
        assert line.body(depth) + line.tables == whole.n_parameters


@pytest.mark.parametrize(
    "limits",
    [
        {"min_tok_s": 30.0, "max_mb": 200.0},
        {"min_tok_s": 100.0},
        {"max_mb": 60.0},
        {"max_ram_mb": 360.0, "max_pehf": 0.1},
    ],
)
def test_the_promise_is_kept_inside_the_source(limits):
    found = best(**limits)
    assert Limits(**limits).broken(found) == []
    assert found.pehf <= limits.get("max_pehf", 0.2)
    shape = found.config
    for axis in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert getattr(shape, axis) <= getattr(BIG, axis)
    assert shape.head_dim == BIG.head_dim
    assert shape.group_size >= BIG.group_size
    assert shape.group_size % BIG.group_size == 0


def test_more_room_is_never_worth_less():
    sizes = [best(max_mb=mb, precisions=("int8",)).n_parameters for mb in (40.0, 80.0, 160.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_one_more_layer_would_break_the_promise():
    found = best(max_mb=120.0, precisions=("int8",), vocab=8_000)
    deeper = replace(found.config, num_hidden_layers=found.config.num_hidden_layers + 1)
    assert Limits(max_mb=120.0).broken(replace(found, config=deeper))


def test_what_is_fixed_stays():
    found = best(max_mb=100.0, vocab=8_000, precisions=("fp16",))
    assert (found.config.vocab_size, found.precision) == (8_000, "fp16")


def test_a_model_that_keeps_it_already_is_hardly_cut():
    found = best(max_mb=10_000.0, max_pehf=1.0, precisions=("fp16",))
    assert found.config.vocab_size == BIG.vocab_size
    assert (found.config.hidden_size, found.config.num_hidden_layers) == (2048, 22)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_mb": 1.0}, r"--max-mb 1 binds: the smallest has [\d.]+ MB"),
        ({"min_tok_s": 1e9}, r"--min-tok-s 1e\+09 binds: the fastest has"),
        ({"max_ram_mb": 1.0}, "--max-ram-mb 1 binds: the smallest needs"),
        ({"max_mb": 100.0, "max_pehf": 0.0}, r"--max-pehf 0 binds: the least is 0\.0"),
    ],
)
def test_a_promise_out_of_reach_names_the_limit(limits, message):
    with pytest.raises(ConfigError, match=message):
        best(**limits)


def test_the_figure_named_is_within_reach():
    with pytest.raises(ConfigError) as caught:
        best(max_mb=1.0)
    reach = float(str(caught.value).split("the smallest has ")[1].split(" MB")[0])
    assert best(max_mb=1.01 * reach).file_bytes <= 1.01e6 * reach


def test_limits_that_are_each_too_much_are_all_named():
    with pytest.raises(ConfigError, match=r"whatever else gives way: --min-tok-s.*; --max-mb"):
        best(max_mb=1e-3, min_tok_s=1e9)


def test_a_vocabulary_larger_than_the_source_is_refused():
    with pytest.raises(ConfigError, match="--vocab 48000 is more than the 32000"):
        best(vocab=48_000, max_mb=100.0)
