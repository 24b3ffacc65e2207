"""Programs of a tiny model in ExecuTorch's runtime against the decoder over the same weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("executorch")
pytest.importorskip("torchao")

from edgetiny.checkpoint import ModelConfig, parameter_shapes
from edgetiny.export.dry_run import model_bytes
from edgetiny.export.executorch_lower import LEAST_DELEGATED, constant_methods, lower_executorch
from edgetiny.export.plan import Plan
from edgetiny.model import build_model
from edgetiny.quantize import (
    BlockWeight,
    ChannelWeight,
    Scheme,
    Weights,
    dequantize,
    dequantize_channels,
)

pytestmark = pytest.mark.filterwarnings("ignore")

PLAN = Plan(
    format="executorch",
    layout="edgetiny",
    precision="fp32",
    kernel="weight_only",
    block_size=0,
    kv_dtype="fp32",
    batch=1,
    context=24,
)
# One layer and no width that is a multiple of a block of 32.
CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=40,
    intermediate_size=44,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=32,
    bos_token_id=1,
    eos_token_ids=(2,),
)
N_TOKENS = 9


def weights_of(config, precision):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.2 + (len(shape) == 1)
        for name, shape in parameter_shapes(config).items()
    }
    kernel = "dynamic" if precision == "int8" else "weight_only"
    return tensors, Weights(config, tensors, Scheme(precision=precision, kernel=kernel))


def reference(config, tensors, weights):
    """Return the decoder over what the stored matrices stand for."""

    def whole(name):
        if tensors[name].ndim == 1:
            return tensors[name]
        stored = weights.linear(name)
        if isinstance(stored, BlockWeight):
            return dequantize(stored)
        return dequantize_channels(stored) if isinstance(stored, ChannelWeight) else stored

    return build_model(config, {name: whole(name) for name in tensors}, torch.float32)


def logits_of(path, tokens, prompt):
    """Return the program's logits after the prompt and after each token that follows it."""
    from executorch.extension.pybindings import portable_lib  # isort: skip
    import executorch.kernels.quantized  # noqa: F401  isort: skip

    program = portable_lib._load_for_executorch(str(path))
    rows = []
    for start, end in [(0, prompt)] + [(i, i + 1) for i in range(prompt, tokens.shape[1])]:
        ids = tokens[:, start:end].contiguous()
        rows.append(program.forward((ids, torch.tensor([start])))[0])
    return torch.stack(rows, dim=1)  # (B, 1 + n, V)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "batch", "layout", "settings"),
    [
        ("fp32", 1, "edgetiny", {"tie_word_embeddings": True}),
        ("fp32", 3, "edgetiny", {"num_key_value_heads": 4, "bias": "qkvo"}),
        ("fp32", 3, "portable", {}),
        ("fp16", 1, "edgetiny", {}),
        ("int8", 3, "edgetiny", {"bias": "qkv"}),
        ("int4", 1, "edgetiny", {"tie_word_embeddings": True}),
    ],
)
def test_a_program_answers_as_the_decoder_does(tmp_path, precision, batch, layout, settings):
    config = replace(CONFIG, **settings)
    tensors, weights = weights_of(config, precision)
    size = 32 if precision == "int4" else 0
    kernel = "dynamic" if precision == "int8" else "weight_only"
    plan = replace(
        PLAN, precision=precision, batch=batch, layout=layout, block_size=size, kernel=kernel
    )
    n_advanced = []
    lowered = lower_executorch(
        tmp_path, weights, plan, lambda n=1, **_: n_advanced.append(n) or None
    )
    assert sum(n_advanced) == len(tensors)
    tokens = torch.randint(
        0, config.vocab_size, (batch, N_TOKENS), generator=torch.Generator().manual_seed(1)
    )
    prompt = 4 if batch == 1 else 1
    with torch.no_grad():
        wanted = reference(config, tensors, weights)(tokens)[:, prompt - 1 :]
    given = logits_of(tmp_path / lowered.files[0], tokens, prompt)
    if precision in ("fp32", "fp16"):
        np.testing.assert_allclose(given, wanted, atol=1e-4)
    else:
        # Activations of eight bits, 40 to a scale: what weights cost is in both.
        assert (given - wanted).square().mean().sqrt() < 0.06 * wanted.std()
    custom = [kind for kind in lowered.nodes if kind.startswith("llama.")]
    assert bool(custom) == lowered.facts["custom_ops"] == (layout == "edgetiny")
    if layout == "edgetiny" and precision != "fp16":
        assert lowered.facts["delegated_share"] > LEAST_DELEGATED


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_the_forecast_counts_a_tied_table_as_often_as_it_is_stored(tmp_path, precision, tied):
    config = replace(CONFIG, vocab_size=40_000, hidden_size=96, tie_word_embeddings=tied)
    _, weights = weights_of(config, precision)
    plan = replace(PLAN, precision=precision)
    if precision == "int8":
        plan = replace(plan, kernel="dynamic")
    if precision == "int4":
        plan = replace(plan, block_size=32)
    lowered = lower_executorch(tmp_path, weights, plan, lambda *_, **__: None)
    written = (tmp_path / lowered.files[0]).stat().st_size
    assert model_bytes(plan, config, None) == pytest.approx(written, rel=0.03)


@pytest.mark.slow
def test_identical_inputs_give_identical_bytes(tmp_path):
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        _, weights = weights_of(CONFIG, "fp32")
        lower_executorch(tmp_path / name, weights, PLAN, lambda *_: None)
        made.append((tmp_path / name / "model.pte").read_bytes())
    assert made[0] == made[1]


def test_the_runner_is_told_what_it_asks_for():
    _, weights = weights_of(CONFIG, "fp32")
    methods = constant_methods(weights, PLAN)
    assert methods["get_max_seq_len"] == methods["get_max_context_len"] == 24
    assert (methods["get_bos_id"], methods["get_eos_ids"]) == (1, [2])
    assert methods["enable_dynamic_shape"]
    assert not constant_methods(weights, replace(PLAN, batch=3))["enable_dynamic_shape"]
