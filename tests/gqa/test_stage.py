import pytest
import torch

from edgetiny.config.model import GqaConfig
from edgetiny.errors import ConfigError, DataError
from edgetiny.gqa import run
from edgetiny.gqa.grouping import adjacent
from edgetiny.gqa.pool import follow, pool_kv_heads, query_order, reorder
from edgetiny.model import build_model, load_model

POOLS = ("mean", "first", "random", "aligned")


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("grouping", ["adjacent", "similarity"])
def test_as_many_groups_as_heads_keep_every_bit(
    make_checkpoint, make_shards, tmp_path, pool, grouping
):
    source = make_checkpoint()
    config = GqaConfig(
        source=source.path,
        groups=4,
        grouping=grouping,
        pool=pool,
        data=make_shards(),
        context=32,
        out=tmp_path / "out",
    )
    result = run(config)
    assert all(torch.equal(result.tensor(name), source.tensor(name)) for name in source.names())
    metrics = result.lineage["metrics"]
    assert metrics["bits_per_byte_before"] == metrics["bits_per_byte_after"]


@pytest.mark.parametrize("pool", ["mean", "aligned"])
def test_vectors_of_another_dtype_than_the_matrices_keep_it(
    make_checkpoint, make_shards, tmp_path, pool
):
    def edit(tensors):
        tensors |= {name: each.bfloat16() for name, each in tensors.items() if each.ndim == 2}

    source = make_checkpoint(edit=edit, bias="qkv")
    data = {"data": make_shards(), "context": 32} if pool == "aligned" else {}
    result = run(GqaConfig(source=source.path, groups=2, pool=pool, out=tmp_path / "out", **data))
    for name, tensor in result.state_dict().items():
        assert tensor.dtype == (torch.float32 if tensor.ndim == 1 else torch.bfloat16), name


@torch.no_grad()
def test_heads_in_another_order_are_the_same_function(make_checkpoint):
    source = make_checkpoint(num_attention_heads=8, num_key_value_heads=4, bias="qkvo")
    grouping = ((3, 0), (2, 1))
    tensors = {}
    for name in source.names():
        tensor = source.tensor(name)
        if ".self_attn." in name:
            tensor = follow(name, tensor, grouping, source.config)
        if ".k_proj." in name or ".v_proj." in name:
            tensor = reorder(tensor, (3, 0, 2, 1), 8, 0)
        tensors[name] = tensor
    assert query_order(grouping, source.config) == [6, 7, 0, 1, 4, 5, 2, 3]
    tokens = torch.arange(40).view(2, 20)
    before, after = load_model(source)(tokens), build_model(source.config, tensors)(tokens)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(source.tensor(name), tensors[name])
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_a_random_head_is_one_of_its_group_and_the_same_for_keys_and_values():
    heads = torch.arange(8.0).repeat_interleave(2)[:, None]
    drawn = [pool_kv_heads(heads, adjacent(8, 2), 2, "random", (seed, 0)) for seed in range(20)]
    firsts = {int(each[0]) for each in drawn}
    assert firsts == {0, 1, 2, 3}
    assert all(int(each[0]) < 4 <= int(each[2]) for each in drawn)
    again = pool_kv_heads(heads + 100, adjacent(8, 2), 2, "random", (3, 0))
    assert torch.equal(again - 100, drawn[3])
    assert pool_kv_heads(heads, adjacent(8, 2), 2, "first").flatten().tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"grouping": "similarity"}, "--grouping similarity"),
        ({"pool": "aligned"}, "--pool aligned"),
    ],
)
def test_text_is_asked_for_where_it_is_needed(tmp_path, changes, flag):
    with pytest.raises(ConfigError, match=f"^{flag} needs --data"):
        GqaConfig(source=tmp_path, groups=2, out=tmp_path / "out", **changes)


def test_bad_text_is_refused_and_leaves_nothing(make_checkpoint, make_shards, tmp_path):
    source = make_checkpoint()
    values = {"source": source.path, "groups": 2, "pool": "aligned", "out": tmp_path / "out"}
    with pytest.raises(DataError, match="20 tokens, less than the 32 of one"):
        run(GqaConfig(data=make_shards("short", n_train=20), context=32, **values))
    with pytest.raises(DataError, match="vocabulary of 97"):
        run(GqaConfig(data=make_shards("other", vocab_size=200), **values))
    with pytest.raises(ConfigError, match="--context 65 is beyond the model's 64 positions"):
        run(GqaConfig(data=make_shards("long"), context=65, **values))
    with pytest.raises(ConfigError, match=r"8 groups do not divide .* choose from 1, 2, 4$"):
        run(GqaConfig(data=tmp_path / "long", **values | {"groups": 8}))
    assert not (tmp_path / "out").exists()


def test_without_held_out_text_no_bits_are_told(make_checkpoint, make_shards, tmp_path):
    data, source = make_shards(n_valid=0), make_checkpoint()
    result = run(GqaConfig(source=source.path, groups=2, data=data, out=tmp_path / "out"))
    assert result.lineage["metrics"] == {"kv_heads_before": 4}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1, "pool": "first"}, "--seed is for --pool random"),
        ({"context": 32}, "--context needs --data"),
        ({"eval_tokens": 256}, "--eval-tokens needs --data"),
        ({"calibration_tokens": 256}, "--calibration-tokens is for --grouping similarity or"),
    ],
)
def test_a_flag_that_does_nothing_is_refused(tmp_path, changes, said):
    data = tmp_path if "calibration_tokens" in changes else None
    with pytest.raises(ConfigError, match=f"^{said}"):
        GqaConfig(source=tmp_path, groups=2, out=tmp_path / "out", data=data, **changes)
