import pytest
import torch

from edgetiny.config.model import GqaConfig
from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.gqa import run, to_gqa
from edgetiny.gqa.grouping import adjacent
from edgetiny.gqa.pool import pool_kv_heads
from edgetiny.model import load_model

HEAD_DIM = 8


def make_heads_equal_in(n_groups):
    """Return an edit after which the heads of each group hold the same keys and values."""

    def edit(tensors):
        for name, tensor in tensors.items():
            if ".k_proj." in name or ".v_proj." in name:
                heads = tensor.unflatten(0, (n_groups, -1, HEAD_DIM))
                tensors[name] = heads[:, :1].expand_as(heads).flatten(0, 2)

    return edit


def test_same_number_of_heads_keeps_every_bit(make_checkpoint, tmp_path):
    source = make_checkpoint(bias="qkv")
    result = run(GqaConfig(source=source.path, groups=4, out=tmp_path / "out"))
    assert result.config == source.config
    assert result.names() == source.names()
    assert all(torch.equal(result.tensor(name), source.tensor(name)) for name in source.names())


@pytest.mark.parametrize(
    ("n_kv_heads", "groups", "bias"),
    [(4, 2, "none"), (4, 1, "qkv"), (8, 2, "qkvo"), (2, 1, "qkvo"), (4, 4, "none")],
)
@torch.no_grad()
def test_identical_heads_in_a_group_give_equal_logits(
    make_checkpoint, tmp_path, n_kv_heads, groups, bias
):
    # With 4 or 2 of 8 the source is grouped itself.
    source = make_checkpoint(
        num_attention_heads=8,
        num_key_value_heads=n_kv_heads,
        bias=bias,
        edit=make_heads_equal_in(groups),
    )
    result = run(GqaConfig(source=source.path, groups=groups, out=tmp_path / "out"))
    assert result.config.num_key_value_heads == groups
    assert result.lineage["metrics"] == {"kv_heads_before": n_kv_heads}
    tokens = torch.arange(40).view(2, 20)
    before, after = load_model(source)(tokens), load_model(result)(tokens)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


def test_neighbouring_heads_are_averaged():
    weight = torch.arange(4.0).repeat_interleave(2)[:, None].expand(8, 3)
    pooled = pool_kv_heads(weight, adjacent(4, 2), 2, "mean")
    assert torch.equal(pooled, torch.tensor([0.5, 0.5, 2.5, 2.5])[:, None].expand(4, 3))


def test_mean_is_taken_in_fp32_and_stored_as_the_source(make_checkpoint):
    heads = torch.tensor([60000.0, 60000.0, 1.0, 1.0], dtype=torch.float16)
    assert pool_kv_heads(heads, adjacent(4, 2), 1, "mean").tolist() == [60000.0, 1.0]
    _, tensors = to_gqa(make_checkpoint(dtype=torch.bfloat16), 2)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


@pytest.mark.parametrize("groups", [0, 3, 5, 8])
def test_groups_that_do_not_divide_are_refused_with_the_choices(make_checkpoint, groups):
    with pytest.raises(ConfigError, match=r"choose from 1, 2, 4$"):
        to_gqa(make_checkpoint(), groups)


def test_nothing_is_left_behind_by_a_refusal(make_checkpoint, tmp_path):
    source = make_checkpoint()
    with pytest.raises(ConfigError):
        run(GqaConfig(source=source.path, groups=3, out=tmp_path / "out"))
    with pytest.raises(CheckpointError, match="does not exist"):
        run(GqaConfig(source=tmp_path / "nothing", groups=2, out=tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_existing_folder_is_replaced_only_when_told(make_checkpoint, tmp_path):
    source = make_checkpoint()
    run(GqaConfig(source=source.path, groups=2, out=tmp_path / "out"))
    with pytest.raises(ConfigError, match="--overwrite"):
        run(GqaConfig(source=source.path, groups=1, out=tmp_path / "out"))
    again = run(GqaConfig(source=source.path, groups=1, out=tmp_path / "out", overwrite=True))
    assert again.config.num_key_value_heads == 1
