import random
from dataclasses import replace

import pytest
import torch

from edgetiny.checkpoint import parameter_shapes
from edgetiny.errors import CheckpointError
from edgetiny.importance.neurons import random_scores, score
from edgetiny.importance.scores import Scores
from edgetiny.inherit.neurons import best, choose
from edgetiny.inherit.surgery import cut


def test_best_takes_the_highest_in_order_and_the_first_of_equals():
    assert best(torch.tensor([1.0, 5.0, 3.0, 4.0]), 2).tolist() == [1, 3]
    assert best(torch.ones(100), 3).tolist() == [0, 1, 2]
    assert best(torch.tensor([[1.0, 2.0], [4.0, 3.0]]), 1).tolist() == [[1], [0]]


def test_a_group_counts_with_the_heads_it_keeps(tiny_config):
    scores = Scores(
        hidden=torch.arange(32.0),
        units=[torch.arange(48.0)],
        # Of the first group one strong head would stay, of the second one middling head.
        query=[torch.tensor([9.0, 0.0, 5.0, 6.0])],
        kv=[torch.tensor([1.0, 1.5])],
    )
    one_each = choose(scores, replace(tiny_config, num_attention_heads=2))
    assert one_each.query[0].tolist() == [0, 3]
    one_of_one = replace(tiny_config, num_attention_heads=1, num_key_value_heads=1)
    assert choose(scores, one_of_one).query[0].tolist() == [0]
    scores.kv[0][1] = 4.5
    assert choose(scores, one_of_one).query[0].tolist() == [3]
    scores.kv[0][1] = 1.5
    whole_group = replace(tiny_config, num_attention_heads=2, num_key_value_heads=1)
    kept = choose(scores, whole_group)
    assert (kept.kv[0].tolist(), kept.query[0].tolist()) == ([1], [2, 3])


def test_random_scores_follow_their_seed(tiny_config):
    first, second, other = (random_scores(tiny_config, seed) for seed in (0, 0, 1))
    assert torch.equal(first.hidden, second.hidden)
    assert not torch.equal(first.hidden, other.hidden)
    assert not torch.equal(first.units[0], first.units[1])


SILENT = {"hidden": range(20, 32), "units": range(24), "kv": range(2), "query": range(4)}


def silence(tensors):
    """Silence what SILENT names, in every layer, by the weights that are multiplied."""
    for name, tensor in tensors.items():
        if "embed_tokens" in name or "lm_head" in name:
            tensor[:, 20:] = 0
        elif "norm" in name or "o_proj" in name or "down_proj" in name:
            tensor[20:] = 0
        if "gate_proj" in name or "up_proj" in name:
            tensor[:24] = 0
        if "k_proj" in name or "v_proj" in name:
            tensor[:16] = 0
        if "q_proj" in name:
            tensor[:32] = 0


@pytest.mark.parametrize("method", ["l1", "l2", "taylor", "activation"])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_silent_is_not_kept(make_checkpoint, method, tied):
    source = make_checkpoint(
        num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=tied, edit=silence
    )
    windows = torch.randint(0, 97, (4, 33), generator=torch.Generator().manual_seed(0))
    scores = score(method, source.config, source.state_dict(), windows)
    shape = replace(
        source.config,
        hidden_size=20,
        intermediate_size=20,
        num_key_value_heads=2,
        num_attention_heads=4,
    )
    kept = choose(scores, shape)
    assert kept.hidden.tolist() == list(range(20))
    for layer in range(2):
        assert kept.units[layer].tolist() == list(range(24, 44))
        assert kept.kv[layer].tolist() == [2, 3]
        assert kept.query[layer].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("method", ["l1", "l2", "taylor", "activation"])
def test_weights_that_are_not_finite_are_refused(make_checkpoint, method):
    name = "model.layers.1.mlp.down_proj.weight"
    source = make_checkpoint(edit=lambda tensors: tensors[name][0].fill_(torch.nan))
    with pytest.raises(CheckpointError, match=r"not finite|NaN"):
        score(method, source.config, source.state_dict(), torch.arange(40).view(2, 20))


@pytest.mark.parametrize("method", ["l1", "l2", "taylor", "activation", "random"])
@pytest.mark.parametrize("groups", [8, 4, 2])
def test_every_method_reaches_fifty_shapes(make_checkpoint, method, groups):
    source = make_checkpoint(
        num_attention_heads=8, num_key_value_heads=groups, tie_word_embeddings=groups == 4
    )
    tensors = source.state_dict()
    scores = score(method, source.config, tensors, torch.arange(40).view(2, 20))
    rng = random.Random(0)
    for _ in range(50):
        n_groups = rng.randint(1, groups)
        shape = replace(
            source.config,
            hidden_size=rng.randint(1, 32),
            intermediate_size=rng.randint(1, 44),
            num_key_value_heads=n_groups,
            num_attention_heads=n_groups * rng.randint(1, source.config.group_size),
        )
        student = cut(source.config, tensors, shape, choose(scores, shape), {})
        wanted = parameter_shapes(shape)
        assert {name: tuple(tensor.shape) for name, tensor in student.items()} == wanted
