"""What every test may ask for: the shared data, and one tiny random checkpoint."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes, write_checkpoint
from edgetiny.files import atomic_folder

TINY = ModelConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=8,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_ids=(2,),
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real text and tokenizers; skip the test where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EDGETINY_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set EDGETINY_SHARED_DATA to run this test")
    return folder


@pytest.fixture
def make_checkpoint(tmp_path):
    """Return a function that writes a tiny random checkpoint; keywords replace its settings."""

    def make(name="source", *, dtype=torch.float32, seed=0, edit=None, **settings):
        config = replace(TINY, **settings)
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            name: (torch.randn(shape, generator=generator) * 0.3 + (len(shape) == 1)).to(dtype)
            for name, shape in parameter_shapes(config).items()
        }
        if edit is not None:
            edit(tensors)
        with atomic_folder(tmp_path / name) as folder:
            write_checkpoint(
                folder, config, tensors, stage="init", settings={}, parent=None, tokenizer=None
            )
        return Checkpoint.open(tmp_path / name)

    return make
