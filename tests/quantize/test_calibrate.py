from dataclasses import replace

import pytest
import torch

from edgetiny.errors import CheckpointError, DataError
from edgetiny.model import build_model
from edgetiny.quantize import Scheme, Weights, calibrate, dequantize, simulated


@pytest.fixture
def tokens(tiny_config):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, tiny_config.vocab_size, (6, 40), generator=generator)


def calibrated(checkpoint, tokens, folder, **scheme):
    return calibrate(checkpoint.config, checkpoint.state_dict(), Scheme(**scheme), tokens, folder)


def logit_error(weights, checkpoint, tokens):
    with torch.inference_mode():
        wanted = build_model(checkpoint.config, checkpoint.state_dict(), torch.float32)(tokens)
        return float((simulated(weights)(tokens) - wanted).square().mean())


def test_gptq_is_closer_to_the_model_than_plain_rounding(tiny_checkpoint, tokens, tmp_path):
    gptq = calibrated(tiny_checkpoint, tokens, tmp_path, precision="int4", method="gptq")
    tensors = tiny_checkpoint.state_dict()
    plain = Weights(tiny_checkpoint.config, tensors, Scheme(precision="int4"))
    error = logit_error(gptq, tiny_checkpoint, tokens)
    assert error < 0.9 * logit_error(plain, tiny_checkpoint, tokens)


def test_a_byte_cache_costs_little(tiny_checkpoint, tokens, tmp_path):
    weights = calibrated(tiny_checkpoint, tokens, tmp_path, precision="fp32", kv="int8")
    assert weights.kv_scales.key.shape == (2, 2, 8)
    assert weights.kv_scales.value.shape == (2, 2, 8)
    error = logit_error(weights, tiny_checkpoint, tokens)
    assert 0 < error < 1e-3
    # The scales matter: far too small ones cut everything off.
    scales = weights.kv_scales
    weights.kv_scales = replace(scales, key=scales.key / 20, value=scales.value / 20)
    assert logit_error(weights, tiny_checkpoint, tokens) > 50 * error


def test_scales_of_keys_hold_for_rotated_keys_at_any_position(tiny_checkpoint, tokens, tmp_path):
    key = calibrated(tiny_checkpoint, tokens, tmp_path, precision="fp32", kv="int8").kv_scales.key
    first, second = key.chunk(2, dim=-1)
    assert torch.equal(first, second)


def test_an_untied_head_is_rounded_by_its_inputs(make_checkpoint, tokens, tmp_path):
    checkpoint = make_checkpoint(tie_word_embeddings=False)
    weights = calibrated(checkpoint, tokens % 97, tmp_path, precision="int4", method="gptq")
    plain = Weights(checkpoint.config, checkpoint.state_dict(), Scheme(precision="int4"))
    head = "lm_head.weight"
    assert not torch.equal(weights.linear(head).data, plain.linear(head).data)
    assert torch.isfinite(dequantize(weights.table())).all()


def test_matrices_lie_on_disk_until_asked_for(tiny_checkpoint, tokens, tmp_path):
    calibrated(tiny_checkpoint, tokens, tmp_path, precision="int4", method="gptq")
    n_linears = 7 * tiny_checkpoint.config.num_hidden_layers
    assert len(list(tmp_path.iterdir())) == n_linears + 1


def test_no_layer_is_read_before_its_turn(tiny_checkpoint, tokens, tmp_path):
    seen = []

    class Watched(dict):
        def __getitem__(self, name):
            seen.append(name)
            return super().__getitem__(name)

    done = []
    calibrate(
        tiny_checkpoint.config,
        Watched(tiny_checkpoint.state_dict()),
        Scheme(precision="int8", kv="int8"),
        tokens,
        tmp_path,
        lambda: done.append(len(seen)),
    )
    assert not any(".layers.1." in name for name in seen[: done[0]])
    assert len(done) == tiny_checkpoint.config.num_hidden_layers


def test_the_same_text_gives_the_same_bytes(tiny_checkpoint, tokens, tmp_path):
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        scheme = {"precision": "int4", "method": "gptq", "kv": "int8"}
        weights = calibrated(tiny_checkpoint, tokens, tmp_path / name, **scheme)
        found.append((weights.table().data, weights.kv_scales.key))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_the_checkpoint_stays_as_it_was(tiny_checkpoint, tokens, tmp_path):
    tensors = tiny_checkpoint.state_dict()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    scheme = Scheme(precision="int4", method="gptq", kv="int8")
    calibrate(tiny_checkpoint.config, tensors, scheme, tokens, tmp_path)
    assert all(torch.equal(tensors[name], before[name]) for name in before)


def test_ids_beyond_the_vocabulary_are_refused(tiny_checkpoint, tokens, tmp_path):
    with pytest.raises(DataError, match=r"has id 600.*vocabulary is 512"):
        calibrated(
            tiny_checkpoint, torch.full_like(tokens, 600), tmp_path, precision="int8", kv="int8"
        )


def test_windows_beyond_the_models_context_are_refused(tiny_checkpoint, tmp_path):
    tokens = torch.zeros(1, 129, dtype=torch.int64)
    with pytest.raises(DataError, match="2 to 128 tokens"):
        calibrated(tiny_checkpoint, tokens, tmp_path, precision="int8", kv="int8")


@pytest.mark.parametrize("method", ["gptq", "rtn", "hqq"])
def test_weights_that_are_not_finite_are_named(make_checkpoint, tokens, tmp_path, method):
    name = "model.layers.1.mlp.up_proj.weight"

    def spoil(tensors):
        tensors[name][3, 4] = float("nan")

    checkpoint = make_checkpoint(edit=spoil)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj"):
        calibrated(checkpoint, tokens % 97, tmp_path, precision="int4", method=method, kv="int8")


@pytest.mark.parametrize("part", ["k_proj", "v_proj"])
def test_keys_and_values_that_are_not_finite_are_refused_by_their_layer(
    make_checkpoint, tokens, tmp_path, part
):
    def spoil(tensors):
        tensors[f"model.layers.1.self_attn.{part}.bias"][3] = float("nan")

    checkpoint = make_checkpoint(bias="qkv", edit=spoil)
    with pytest.raises(CheckpointError, match=r"keys or values of layer 1 are not finite"):
        calibrated(checkpoint, tokens % 97, tmp_path, precision="fp32", kv="int8")
