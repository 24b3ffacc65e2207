"""Settled gates on a model are the cut: for every axis, MHA and GQA, tied and untied."""

from dataclasses import replace

import pytest
import torch

from edgetiny.checkpoint import parameter_shapes
from edgetiny.importance.axes import take_layers
from edgetiny.inherit.learn import hidden_of
from edgetiny.inherit.masked import masked_parameters
from edgetiny.inherit.masks import Masks, kept_of, mask_axes
from edgetiny.inherit.surgery import cut, cut_shape
from edgetiny.model import build_model

KINDS = {
    "pangu": {"series_activation": 2, "augmented_shortcut": 5, "num_key_value_heads": 4},
    "mha_tied": {},
    "gqa_tied": {"num_key_value_heads": 4},
    "gqa_untied": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "biased": {"num_key_value_heads": 4, "bias": "qkvo"},
}
SHAPES = {
    "hidden": {"hidden_size": 19},
    "units": {"intermediate_size": 21},
    "groups": {"num_key_value_heads": 1},
    "layers": {"num_hidden_layers": 1},
    "query": {"members": 1},
    "all": {
        "hidden_size": 13,
        "intermediate_size": 7,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", SHAPES)
@torch.no_grad()
def test_settled_masks_are_the_cut(make_checkpoint, kind, axis):
    settings = {"num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 3}
    source = make_checkpoint(**(settings | KINDS[kind] | {"rms_norm_eps": 0.05}))
    config, tensors = source.config, source.state_dict()
    sizes = dict(SHAPES[axis])
    members = min(config.group_size, sizes.pop("members", config.group_size))
    groups = sizes.get("num_key_value_heads", config.num_key_value_heads)
    shape = replace(config, num_attention_heads=groups * members, **sizes)
    masks = Masks(mask_axes(config, shape), seed=0)
    for log_alpha in masks.log_alpha.values():
        log_alpha.copy_(torch.randn(log_alpha.shape, generator=torch.Generator().manual_seed(1)))
    settled = masks.settled()
    gates = {name: gate.float() for name, gate in settled.items()}
    model, tokens = build_model(config, tensors), torch.arange(60).view(3, 20)
    masked = masked_parameters(dict(model.named_parameters()), gates, config)
    hidden = hidden_of(model, masked, tokens)
    wanted = hidden @ model.lm_head.weight.T
    layers, kept = kept_of(settled, config)
    thin, left = take_layers(config, tensors, layers)
    shape = cut_shape(thin, shape)
    student = cut(thin, left, shape, kept, {})
    assert {name: tuple(t.shape) for name, t in student.items()} == parameter_shapes(shape)
    ours = build_model(shape, student)(tokens)
    torch.testing.assert_close(ours, wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)
    # Only one query head to a group leaves nothing to cut; else the gates did something.
    assert torch.allclose(model(tokens), wanted, atol=1e-2) == (not gates)


def test_open_gates_change_nothing(make_checkpoint):
    source = make_checkpoint()
    model = build_model(source.config, source.state_dict())
    parameters = dict(model.named_parameters())
    assert mask_axes(source.config, source.config) == {}
    masked = masked_parameters(parameters, {}, source.config)
    assert all(masked[name] is parameters[name] for name in parameters)


def test_rows_are_settled_to_their_counts(make_checkpoint):
    config = make_checkpoint(num_attention_heads=8, num_key_value_heads=4).config
    shape = replace(config, num_attention_heads=3, num_key_value_heads=3, hidden_size=5)
    settled = Masks(mask_axes(config, shape), seed=0).settled()
    counts = {name: set(gate.sum(dim=1).tolist()) for name, gate in settled.items()}
    assert counts == {"hidden": {5}, "kv": {3}, "query": {1}}
