"""The cut model is the source with the removed parts masked to nothing."""

from dataclasses import replace

import pytest
import torch

from edgetiny.checkpoint import parameter_shapes
from edgetiny.importance.axes import take_layers
from edgetiny.inherit.surgery import Kept, cut, cut_shape
from edgetiny.model import build_model

KINDS = {
    "pangu": {"series_activation": 2, "augmented_shortcut": 5, "num_key_value_heads": 4},
    "mha_tied": {},
    "gqa_untied": {"num_key_value_heads": 4, "tie_word_embeddings": False},
    "qwen2": {"num_key_value_heads": 2, "bias": "qkv"},
    "biased": {"num_key_value_heads": 4, "bias": "qkvo", "tie_word_embeddings": False},
}
STUDENTS = {
    "hidden": {"hidden_size": 19},
    "units": {"intermediate_size": 21},
    "query": {"heads": (1, 1)},
    "groups": {"heads": (2, 2)},
    "layers": {"num_hidden_layers": 1},
    "all": {"hidden_size": 13, "intermediate_size": 7, "heads": (2, 1), "num_hidden_layers": 2},
}


def student_of(source, heads=(1, 1), **sizes):
    """Return the shape with heads divided: (groups / first, query heads per group / second)."""
    fewer_groups, fewer_members = heads
    n_groups = max(1, source.num_key_value_heads // fewer_groups)
    members = max(1, source.group_size // fewer_members)
    return replace(
        source,
        num_key_value_heads=n_groups,
        num_attention_heads=n_groups * members,
        **sizes,
    )


def random_kept(source, student, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def some(n, n_kept):
        return torch.randperm(n, generator=generator)[:n_kept].sort().values

    query, kv = [], []
    for _ in range(student.num_hidden_layers):
        groups = some(source.num_key_value_heads, student.num_key_value_heads)
        kv.append(groups)
        members = [some(source.group_size, student.group_size) for _ in groups]
        query.append(
            torch.cat([g * source.group_size + m for g, m in zip(groups, members, strict=True)])
        )
    return Kept(
        hidden=some(source.hidden_size, student.hidden_size),
        units=[some(source.intermediate_size, student.intermediate_size) for _ in query],
        query=query,
        kv=kv,
    )


def masked(config, tensors, kept, energy):
    """Return a model with hooks that silence everything that is not kept; its norms see all of it.

    energy: what their weights are multiplied by the root of.
    """
    model = build_model(config, tensors, torch.float32)

    def mask(size, places):
        return torch.zeros(size).index_fill(0, places, 1.0)

    hidden = mask(config.hidden_size, kept.hidden)
    model.model.embed_tokens.register_forward_hook(lambda module, args, out: out * hidden)
    for place, layer in enumerate(model.model.layers):
        if config.augmented_shortcut:
            layer.shortcut.register_forward_hook(lambda module, args, out: out * hidden)
        heads = mask(config.num_attention_heads, kept.query[place])
        query = heads.repeat_interleave(config.head_dim)
        units = mask(config.intermediate_size, kept.units[place])
        for linear, inputs in ((layer.self_attn.o_proj, query), (layer.mlp.down_proj, units)):
            linear.register_forward_pre_hook(lambda module, args, inputs=inputs: args[0] * inputs)
            linear.register_forward_hook(lambda module, args, out: out * hidden)
    for name, share in energy.items():
        model.get_parameter(name).data.mul_(share**0.5)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", STUDENTS)
@pytest.mark.parametrize("has_energy", [False, True])
@torch.no_grad()
def test_cut_model_equals_the_masked_one(make_checkpoint, kind, axis, has_energy):
    settings = {"num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 3}
    # An epsilon large enough to matter: the cut model needs another one.
    source = make_checkpoint(**(settings | KINDS[kind] | {"rms_norm_eps": 0.1}))
    student = student_of(source.config, **STUDENTS[axis])
    layers = {1: [1], 2: [0, 2], 3: [0, 1, 2]}[student.num_hidden_layers]
    big, tensors = take_layers(source.config, source.state_dict(), layers)
    kept = random_kept(big, student)
    norms = [name for name in parameter_shapes(student) if "norm" in name]
    energy = {name: 0.4 + 0.1 * i for i, name in enumerate(norms) if has_energy}
    shape = cut_shape(big, student)
    tokens = torch.arange(60).view(3, 20)
    ours = build_model(shape, cut(big, tensors, shape, kept, energy))(tokens)
    wanted = masked(big, tensors, kept, energy)(tokens)
    # Logits reach 40: five units in the last place of fp32.
    torch.testing.assert_close(ours, wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)


def test_layers_are_taken_in_order(make_checkpoint):
    source = make_checkpoint(num_hidden_layers=4)
    config, tensors = take_layers(source.config, source.state_dict(), [1, 3])
    assert list(tensors) == list(parameter_shapes(replace(source.config, num_hidden_layers=2)))
    for place, layer in enumerate((1, 3)):
        name = "self_attn.q_proj.weight"
        ours = tensors[f"model.layers.{place}.{name}"]
        assert torch.equal(ours, source.tensor(f"model.layers.{layer}.{name}"))
    assert config.num_hidden_layers == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_stays_and_energy_is_given_back(make_checkpoint, dtype):
    source = make_checkpoint(dtype=dtype)
    shape = cut_shape(source.config, replace(source.config, hidden_size=8))
    kept = random_kept(source.config, shape)
    tensors = cut(source.config, source.state_dict(), shape, kept, {"model.norm.weight": 0.25})
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    assert torch.equal(
        tensors["model.norm.weight"], source.tensor("model.norm.weight")[kept.hidden]
    )
    other = "model.layers.0.input_layernorm.weight"
    assert torch.equal(tensors[other], source.tensor(other)[kept.hidden] * 2)
    assert shape.rms_norm_eps == 4 * source.config.rms_norm_eps


@torch.no_grad()
def test_keeping_everything_keeps_every_bit(make_checkpoint):
    source = make_checkpoint(dtype=torch.bfloat16, num_key_value_heads=2)
    shape = cut_shape(source.config, source.config)
    assert shape == source.config
    tensors = cut(source.config, source.state_dict(), shape, random_kept(shape, shape), {})
    assert all(torch.equal(tensors[name], source.tensor(name)) for name in source.names())
