import pytest
import torch

from edgetiny.config.model import GqaConfig
from edgetiny.errors import CheckpointError
from edgetiny.gqa import run
from edgetiny.gqa.align import multiplied
from edgetiny.model import Rotary, load_model

TOKENS = torch.arange(48).view(2, 24) % 90 + 3
FAMILIES = ((0, 2), (1, 3))


def settings(source, data, out, **changes):
    values = {"groups": 2, "pool": "aligned", "grouping": "similarity", "context": 32}
    values |= {"calibration_tokens": 2048, "eval_tokens": 256}
    return GqaConfig(source=source.path, data=data, out=out, **(values | changes))


def distance(source, result):
    with torch.no_grad():
        before, after = load_model(source)(TOKENS), load_model(result)(TOKENS)
    return float((after - before).norm() / before.norm())


def test_a_complex_factor_commutes_with_the_rotary_embedding(tiny_config):
    generator = torch.Generator().manual_seed(0)
    rotary = Rotary(tiny_config, torch.arange(20)[None], torch.float64)
    x = torch.randn(1, 3, 20, tiny_config.head_dim, generator=generator, dtype=torch.float64)
    factors = torch.randn(3, tiny_config.head_dim // 2, generator=generator, dtype=torch.complex128)

    def multiply(x):  # (1, heads, T, head_dim)
        return multiplied(x[0].transpose(1, 2), factors).transpose(1, 2)[None]

    torch.testing.assert_close(rotary.apply(multiply(x)), multiply(rotary.apply(x)))


@pytest.mark.parametrize(
    "shape",
    [
        {"num_key_value_heads": 4},
        {"num_attention_heads": 8, "num_key_value_heads": 4},
        {"num_key_value_heads": 4, "tie_word_embeddings": False},
    ],
    ids=["mha", "gqa", "untied"],
)
def test_disguised_copies_are_merged_without_a_loss(
    make_checkpoint, make_shards, plant_copies, tmp_path, shape
):
    n_queries = shape.get("num_attention_heads", 4) // 4
    source = make_checkpoint(edit=plant_copies(FAMILIES, n_queries), **shape)
    shards = make_shards()
    aligned = run(settings(source, shards, tmp_path / "aligned"))
    mean = run(settings(source, shards, tmp_path / "mean", pool="mean"))
    metrics = aligned.lineage["metrics"]
    assert [row["groups"] for row in metrics["layers"]] == ["0+2, 1+3"] * 2
    assert max(row["error"] for row in metrics["layers"]) < 1e-9
    assert distance(source, aligned) < 1e-4 < 0.05 < distance(source, mean)
    assert metrics["bits_per_byte_after"] == pytest.approx(metrics["bits_per_byte_before"], 1e-5)


@pytest.mark.parametrize("bias", ["qkv", "qkvo"])
def test_biases_are_merged_as_the_weights_are(make_checkpoint, make_shards, tmp_path, bias):
    def edit(tensors):
        for name, tensor in tensors.items():
            if ".k_proj." in name or ".v_proj." in name:
                heads = tensor.view(2, 2, 8, *tensor.shape[1:])
                tensors[name] = heads[:, :1].expand_as(heads).flatten(0, 2).contiguous()

    source = make_checkpoint(bias=bias, edit=edit)
    result = run(settings(source, make_shards(), tmp_path / "out"))
    assert [row["groups"] for row in result.lineage["metrics"]["layers"]] == ["0+1, 2+3"] * 2
    assert distance(source, result) < 1e-4


def test_unlike_heads_lose_less_aligned_than_averaged(make_checkpoint, make_shards, tmp_path):
    source, shards = make_checkpoint(), make_shards()
    aligned = run(settings(source, shards, tmp_path / "aligned", groups=1))
    mean = run(settings(source, shards, tmp_path / "mean", groups=1, pool="mean"))
    assert distance(source, aligned) < distance(source, mean)


def test_a_stored_dtype_is_kept(make_checkpoint, make_shards, tmp_path):
    source = make_checkpoint(dtype=torch.bfloat16)
    result = run(settings(source, make_shards(), tmp_path / "out"))
    assert {result.tensor(name).dtype for name in result.names()} == {torch.bfloat16}


@pytest.mark.parametrize("silent", ["head", "layer", "values"])
def test_what_is_silent_is_merged_to_finite_weights(make_checkpoint, make_shards, tmp_path, silent):
    def edit(tensors):
        if silent == "values":
            tensors["model.layers.0.self_attn.v_proj.weight"].zero_()
        else:
            output = tensors["model.layers.0.self_attn.o_proj.weight"]
            output[:, : 8 if silent == "head" else None] = 0

    source = make_checkpoint(edit=edit)
    result = run(settings(source, make_shards(), tmp_path / "out", grouping="adjacent"))
    assert all(result.tensor(name).isfinite().all() for name in result.names())
    error = result.lineage["metrics"]["layers"][0]["error"]
    assert 0 < error < 0.5 if silent == "head" else error == 0


@pytest.mark.parametrize(
    ("pool", "part"),
    [
        ("aligned", "q_proj.weight"),
        ("aligned", "v_proj.bias"),
        ("aligned", "o_proj.weight"),
        ("aligned", "o_proj.bias"),
        ("mean", "k_proj.weight"),
        ("mean", "o_proj.weight"),
    ],
)
def test_weights_that_are_not_finite_are_refused_by_their_layer(
    make_checkpoint, make_shards, tmp_path, pool, part
):
    def edit(tensors):
        tensors[f"model.layers.1.self_attn.{part}"][3] = torch.nan

    source = make_checkpoint(bias="qkvo", edit=edit)
    with pytest.raises(CheckpointError, match=r"layer 1 is not finite .* edgetiny inspect"):
        run(settings(source, make_shards(), tmp_path / "out", pool=pool))
    assert not (tmp_path / "out").exists()
