import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgetiny.data import Shards
from edgetiny.errors import CheckpointError, DataError
from edgetiny.importance import text
from edgetiny.importance.text import mean_loss, text_windows
from edgetiny.model import load_model, stream


def bare_split(folder, n_tokens):
    folder.mkdir()
    for name, count in (("train", 10), ("val", n_tokens)):
        (np.arange(count) % 97).astype("<u2").tofile(folder / f"{name}.bin")
    return Shards.open(folder).valid


def test_windows_spread_over_the_split_and_count_as_asked(tmp_path):
    split = bare_split(tmp_path / "data", 10_001)
    windows = text_windows(split, 1000, longest=100)
    assert windows.shape == (10, 101)
    # 100 windows are there, every tenth is taken.
    assert windows[:, 0].tolist() == [start % 97 for start in range(0, 10_000, 1000)]
    assert text_windows(split, 10**6, longest=100).shape == (100, 101)
    assert text_windows(split, 30, longest=100).shape == (1, 31)


@pytest.mark.parametrize("n_tokens", [0, 1, 100])
def test_text_shorter_than_a_window_is_refused(tmp_path, n_tokens):
    split = bare_split(tmp_path / "data", n_tokens)
    with pytest.raises(DataError, match=rf"holds {n_tokens} tokens, less than the 101 of one"):
        text_windows(split, 1000, longest=100)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_mean_loss_is_the_cross_entropy_however_it_is_cut(make_checkpoint, monkeypatch, tied):
    source = make_checkpoint(tie_word_embeddings=tied, num_key_value_heads=2)
    windows = torch.randint(0, 97, (5, 33), generator=torch.Generator().manual_seed(0))
    logits = load_model(source)(windows[:, :-1])
    wanted = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
    assert mean_loss(source.config, source.state_dict(), windows) == pytest.approx(wanted, abs=1e-5)
    monkeypatch.setattr(stream, "_BATCH_TOKENS", 64)
    monkeypatch.setattr(text, "_LOGIT_BYTES", 97 * 4 * 7)
    assert mean_loss(source.config, source.state_dict(), windows) == pytest.approx(wanted, abs=1e-5)


def test_a_loss_that_is_not_finite_is_refused(make_checkpoint):
    source = make_checkpoint(edit=lambda tensors: tensors["model.norm.weight"].fill_(torch.nan))
    with pytest.raises(CheckpointError, match="not finite"):
        mean_loss(source.config, source.state_dict(), torch.zeros((1, 5), dtype=torch.int64))
