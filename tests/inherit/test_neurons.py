from dataclasses import replace

import pytest
import torch

from edgetiny.inherit.neurons import Scores, best, choose, score


def test_best_takes_the_highest_in_order_and_the_first_of_equals():
    assert best(torch.tensor([1.0, 5.0, 3.0, 4.0]), 2).tolist() == [1, 3]
    assert best(torch.ones(100), 3).tolist() == [0, 1, 2]
    assert best(torch.tensor([[1.0, 2.0], [4.0, 3.0]]), 1).tolist() == [[1], [0]]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", ["none", "qkvo"])
def test_scores_are_the_squares_of_the_coupled_weights(make_checkpoint, tied, bias):
    source = make_checkpoint(
        num_hidden_layers=3, num_key_value_heads=2, tie_word_embeddings=tied, bias=bias
    )
    w = {name: tensor.double() for name, tensor in source.state_dict().items()}
    scores = score(source, layers=[2])
    layer = "model.layers.2"
    unit = w[f"{layer}.mlp.gate_proj.weight"][7].square().sum()
    unit += w[f"{layer}.mlp.up_proj.weight"][7].square().sum()
    unit += w[f"{layer}.mlp.down_proj.weight"][:, 7].square().sum()
    assert scores.units[0][7] == pytest.approx(float(unit), rel=1e-5)
    rows = slice(8, 16)
    query = w[f"{layer}.self_attn.q_proj.weight"][rows].square().sum()
    query += w[f"{layer}.self_attn.o_proj.weight"][:, rows].square().sum()
    kv = sum(w[f"{layer}.self_attn.{x}_proj.weight"][rows].square().sum() for x in "kv")
    hidden = w["model.norm.weight"][3].square()
    head = w["model.embed_tokens.weight" if tied else "lm_head.weight"]
    hidden += w["model.embed_tokens.weight"][:, 3].square().sum() + head[:, 3].square().sum()
    for name in ("input_layernorm", "post_attention_layernorm"):
        hidden += w[f"{layer}.{name}.weight"][3].square()
    for name in ("self_attn.q", "self_attn.k", "self_attn.v", "mlp.gate", "mlp.up"):
        hidden += w[f"{layer}.{name}_proj.weight"][:, 3].square().sum()
    for name in ("self_attn.o", "mlp.down"):
        hidden += w[f"{layer}.{name}_proj.weight"][3].square().sum()
    if bias == "qkvo":
        query += w[f"{layer}.self_attn.q_proj.bias"][rows].square().sum()
        kv += sum(w[f"{layer}.self_attn.{x}_proj.bias"][rows].square().sum() for x in "kv")
        hidden += w[f"{layer}.self_attn.o_proj.bias"][3].square()
    assert scores.query[0][1] == pytest.approx(float(query), rel=1e-5)
    assert scores.kv[0][1] == pytest.approx(float(kv), rel=1e-5)
    assert scores.hidden[3] == pytest.approx(float(hidden), rel=1e-5)
    assert [len(scores.units), len(scores.query), len(scores.kv)] == [1, 1, 1]


def test_a_group_counts_with_the_heads_it_keeps(tiny_config):
    scores = Scores(
        hidden=torch.arange(32.0),
        units=[torch.arange(48.0)],
        # Of the first group one strong head would stay, of the second one middling head.
        query=[torch.tensor([9.0, 0.0, 5.0, 6.0])],
        kv=[torch.tensor([1.0, 1.5])],
    )
    one_each = choose(scores, [0], replace(tiny_config, num_attention_heads=2))
    assert one_each.query[0].tolist() == [0, 3]
    one_of_one = replace(tiny_config, num_attention_heads=1, num_key_value_heads=1)
    assert choose(scores, [0], one_of_one).query[0].tolist() == [0]
    scores.kv[0][1] = 4.5
    assert choose(scores, [0], one_of_one).query[0].tolist() == [3]
    scores.kv[0][1] = 1.5
    whole_group = replace(tiny_config, num_attention_heads=2, num_key_value_heads=1)
    kept = choose(scores, [0], whole_group)
    assert (kept.kv[0].tolist(), kept.query[0].tolist()) == ([1], [2, 3])
