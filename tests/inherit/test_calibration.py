import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgetiny.data import Shards
from edgetiny.errors import CheckpointError, DataError
from edgetiny.inherit import calibration
from edgetiny.inherit.calibration import calibration_windows, mean_loss, norm_factors
from edgetiny.model import load_model


def bare_shards(folder, n_valid):
    folder.mkdir()
    for name, n_tokens in (("train", 10), ("val", n_valid)):
        (np.arange(n_tokens) % 97).astype("<u2").tofile(folder / f"{name}.bin")
    return Shards.open(folder)


def test_windows_spread_over_the_split_and_count_as_asked(tmp_path):
    shards = bare_shards(tmp_path / "data", 10_001)
    windows = calibration_windows(shards, 1000, longest=100)
    assert windows.shape == (10, 101)
    # 100 windows are there, every tenth is taken.
    assert windows[:, 0].tolist() == [start % 97 for start in range(0, 10_000, 1000)]
    assert calibration_windows(shards, 10**6, longest=100).shape == (100, 101)
    assert calibration_windows(shards, 30, longest=100).shape == (1, 31)


@pytest.mark.parametrize("n_valid", [2, 40])
def test_a_split_shorter_than_a_window_is_used_whole(tmp_path, n_valid):
    shards = bare_shards(tmp_path / "data", n_valid)
    assert calibration_windows(shards, 1000, longest=100).shape == (1, n_valid)


@pytest.mark.parametrize("n_valid", [0, 1])
def test_no_held_out_text_is_refused(tmp_path, n_valid):
    with pytest.raises(DataError, match="--valid-fraction"):
        calibration_windows(bare_shards(tmp_path / "data", n_valid), 1000, longest=100)


@torch.no_grad()
def test_mean_loss_is_the_cross_entropy_however_it_is_cut(tiny_checkpoint, monkeypatch):
    model = load_model(tiny_checkpoint)
    windows = torch.randint(0, 512, (5, 33), generator=torch.Generator().manual_seed(0))
    logits = model(windows[:, :-1])
    wanted = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
    assert mean_loss(model, windows) == pytest.approx(wanted, abs=1e-5)
    monkeypatch.setattr(calibration, "_BATCH_TOKENS", 64)
    monkeypatch.setattr(calibration, "_LOGIT_BYTES", 512 * 4 * 7)
    assert mean_loss(model, windows) == pytest.approx(wanted, abs=1e-5)


def test_a_loss_that_is_not_finite_is_refused(make_checkpoint):
    source = make_checkpoint(edit=lambda tensors: tensors["model.norm.weight"].fill_(torch.nan))
    with pytest.raises(CheckpointError, match="not finite"):
        mean_loss(load_model(source), torch.zeros((1, 5), dtype=torch.int64))


def test_norms_that_lose_nothing_keep_their_weights(tiny_checkpoint):
    model = load_model(tiny_checkpoint)
    windows = torch.arange(90).view(2, 45)
    everything = norm_factors(model, windows, torch.arange(32))
    norms = {name for name in tiny_checkpoint.names() if "norm" in name}
    assert everything.keys() == norms
    assert all(factor == pytest.approx(1) for factor in everything.values())


def test_norms_that_lose_silent_dimensions_keep_their_scale(make_checkpoint):
    def silence(tensors):
        for name, tensor in tensors.items():
            if "embed_tokens" in name:
                tensor[:, 8:] = 0
            if "o_proj" in name or "down_proj" in name:
                tensor[8:] = 0

    model = load_model(make_checkpoint(edit=silence))
    factors = norm_factors(model, torch.arange(90).view(2, 45), torch.arange(8))
    # The mean over a quarter of the dimensions is four times as large.
    assert all(factor == pytest.approx(2, rel=1e-3) for factor in factors.values())
