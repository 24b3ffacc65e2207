"""The cut model is the source with the removed parts masked to nothing."""

from dataclasses import replace

import pytest
import torch

from edgetiny.checkpoint import parameter_shapes
from edgetiny.inherit.layers import without_layers
from edgetiny.inherit.surgery import Kept, cut
from edgetiny.model import RMSNorm, build_model, load_model

KINDS = {
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

    layers = some(source.num_hidden_layers, student.num_hidden_layers).tolist()
    query, kv = [], []
    for _ in layers:
        groups = some(source.num_key_value_heads, student.num_key_value_heads)
        kv.append(groups)
        members = [some(source.group_size, student.group_size) for _ in groups]
        query.append(
            torch.cat([g * source.group_size + m for g, m in zip(groups, members, strict=True)])
        )
    return Kept(
        layers=layers,
        hidden=some(source.hidden_size, student.hidden_size),
        units=[some(source.intermediate_size, student.intermediate_size) for _ in layers],
        query=query,
        kv=kv,
    )


def masked(source, kept, factors):
    """Return the source's model with hooks that silence everything that is not kept."""
    model = without_layers(load_model(source, torch.float32), kept.layers)
    config = source.config

    def mask(size, places):
        return torch.zeros(size).index_fill(0, places, 1.0)

    hidden = mask(config.hidden_size, kept.hidden)
    model.model.embed_tokens.register_forward_hook(lambda module, args, out: out * hidden)
    for place, layer in enumerate(model.model.layers):
        heads = mask(config.num_attention_heads, kept.query[place])
        query = heads.repeat_interleave(config.head_dim)
        units = mask(config.intermediate_size, kept.units[place])
        for linear, inputs in ((layer.self_attn.o_proj, query), (layer.mlp.down_proj, units)):
            linear.register_forward_pre_hook(lambda module, args, inputs=inputs: args[0] * inputs)
            linear.register_forward_hook(lambda module, args, out: out * hidden)
    for name, module in model.named_modules():
        if isinstance(module, RMSNorm):
            factor = factors.get(f"{name}.weight", 1.0)

            def norm(module, args, out, factor=factor):
                squares = args[0][..., kept.hidden].square().mean(-1, keepdim=True)
                scale = (squares + module.eps).rsqrt() * factor
                return args[0] * hidden * scale * module.weight

            module.register_forward_hook(norm)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", STUDENTS)
@torch.no_grad()
def test_cut_model_equals_the_masked_one(make_checkpoint, kind, axis):
    settings = {"num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 3}
    source = make_checkpoint(**(settings | KINDS[kind]))
    student = student_of(source.config, **STUDENTS[axis])
    kept = random_kept(source.config, student)
    norms = [name for name in parameter_shapes(student) if "norm" in name]
    is_narrower = student.hidden_size < source.config.hidden_size
    factors = {name: 0.5 + 0.1 * i for i, name in enumerate(norms) if is_narrower}
    tensors = cut(source, student, kept, factors)
    tokens = torch.arange(60).view(3, 20)
    torch.testing.assert_close(
        build_model(student, tensors)(tokens),
        masked(source, kept, factors)(tokens),
        atol=1e-4,
        rtol=1e-5,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_stays_and_factors_are_applied(make_checkpoint, dtype):
    source = make_checkpoint(dtype=dtype)
    student = replace(source.config, hidden_size=9)
    kept = random_kept(source.config, student)
    tensors = cut(source, student, kept, {"model.norm.weight": 2.0})
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    wanted = source.tensor("model.norm.weight")[kept.hidden] * 2
    assert torch.equal(tensors["model.norm.weight"], wanted)
