"""What every test may ask for: the shared data, and one tiny random checkpoint with a tokenizer.

torch is imported inside the fixtures: a test that asks for none of them starts at once.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edgetiny.checkpoint import Checkpoint, ModelConfig

TEXT_BYTES = 200_000


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real text and tokenizers; skip the test where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EDGETINY_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set EDGETINY_SHARED_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def tiny_design() -> str:
    """Return a design file of 2 layers, 32 hidden."""
    return """schema_version = 1
name = "one"
num_hidden_layers = 2
hidden_size = 32
intermediate_size = 64
num_attention_heads = 4
vocab_size = 97
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes text to a file and returns its path."""

    def write_(text: str) -> Path:
        path = tmp_path / "file.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of English that every Python installation carries; a blank line ends a part."""
    from pydoc_data import topics

    path = tmp_path_factory.mktemp("text") / "topics.txt"
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    path.write_text(text[:TEXT_BYTES], encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory, tiny_text: Path) -> Path:
    """Return the folder of a SentencePiece BPE tokenizer of 512 pieces."""
    from edgetiny.config.tokenizer import TokenizerTrainConfig
    from edgetiny.tokenizer.train import run

    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    run(TokenizerTrainConfig(text=(tiny_text,), out=folder, vocab_size=512))
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> "ModelConfig":
    """Return the smallest shape that has everything: 2 layers, 32 hidden, 4 heads in 2 groups."""
    from edgetiny.checkpoint import ModelConfig

    return ModelConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_ids=(2,),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: "ModelConfig", tiny_tokenizer: Path
) -> "Checkpoint":
    """Return a random fp32 checkpoint with its tokenizer; read it, and copy it to change it."""
    import torch

    from edgetiny.checkpoint import Checkpoint, parameter_shapes, write_checkpoint
    from edgetiny.files import atomic_folder

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in parameter_shapes(tiny_config).items():
        random = torch.randn(shape, generator=generator)
        # Norms near one and matrices that keep the scale: no test meets huge or vanishing logits.
        tensors[name] = 1 + 0.1 * random if len(shape) == 1 else random / shape[-1] ** 0.5
    out = tmp_path_factory.mktemp("checkpoint") / "tiny"
    with atomic_folder(out) as folder:
        write_checkpoint(
            folder,
            tiny_config,
            tensors,
            stage="init",
            settings={"seed": 0},
            parent=None,
            tokenizer=tiny_tokenizer,
        )
    return Checkpoint.open(out)


@pytest.fixture
def make_checkpoint(tmp_path):
    """Return a function that writes a tiny random checkpoint; keywords replace its settings."""
    from dataclasses import replace

    import torch

    from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes, write_checkpoint
    from edgetiny.files import atomic_folder

    tiny = ModelConfig(
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

    def make(name="source", *, dtype=torch.float32, seed=0, edit=None, tokenizer=None, **settings):
        config = replace(tiny, **settings)
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            name: (torch.randn(shape, generator=generator) * 0.3 + (len(shape) == 1)).to(dtype)
            for name, shape in parameter_shapes(config).items()
        }
        if edit is not None:
            edit(tensors)
        with atomic_folder(tmp_path / name) as folder:
            write_checkpoint(
                folder,
                config,
                tensors,
                stage="init",
                settings={},
                parent=None,
                tokenizer=tokenizer,
            )
        return Checkpoint.open(tmp_path / name)

    return make


@pytest.fixture
def trained_on(tmp_path):
    """Return a function that writes a checkpoint as if it were trained on windows of a length."""
    from edgetiny.checkpoint import Checkpoint, write_checkpoint
    from edgetiny.files import atomic_folder

    def write(source, length):
        out = tmp_path / f"{source.path.name}-{length}"
        with atomic_folder(out) as folder:
            write_checkpoint(
                folder,
                source.config,
                source.state_dict(),
                stage="train",
                settings={"sequence_length": length},
                parent=source,
                tokenizer=source.path,
            )
        return Checkpoint.open(out)

    return write


@pytest.fixture
def keep_scale():
    """Return an edit of `make_checkpoint`: matrices keep the size of what goes through them.

    A trained model's about do. Larger random weights make attention chaotic: each rounding error
    grows from layer to layer.
    """

    def edit(tensors):
        for tensor in tensors.values():
            if tensor.ndim == 2:
                tensor /= tensor.std() * tensor.shape[1] ** 0.5

    return edit


@pytest.fixture(scope="session")
def tiny_artefact(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: "Checkpoint") -> Path:
    """Return the int8 artefact of `tiny_checkpoint`; read it, and copy it to change it."""
    pytest.importorskip("onnxruntime")
    from edgetiny.config.export import ExportConfig
    from edgetiny.export.stage import run

    out = tmp_path_factory.mktemp("artefact") / "tiny-int8"
    run(ExportConfig(source=tiny_checkpoint.path, out=out))
    return out


@pytest.fixture
def make_artefact(tmp_path):
    """Return a function that exports a checkpoint, verified, and returns the artefact's folder."""
    pytest.importorskip("onnxruntime")
    from edgetiny.config.export import ExportConfig
    from edgetiny.export.stage import run

    def make(checkpoint, name="artefact", **settings):
        out = tmp_path / name
        run(ExportConfig(source=checkpoint.path, out=out, **settings))
        return out

    return make


@pytest.fixture
def data(tmp_path):
    """Return a shard folder of random ids under 97."""
    import numpy as np

    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("train", "val"):
        rng.integers(0, 97, 400).astype("<u2").tofile(folder / f"{name}.bin")
    return folder


@pytest.fixture
def counting_reporter():
    """Return a reporter with `tasks`: by the name of each, how far it went and was to go."""
    import contextlib

    from edgetiny.console import Reporter

    class Counting(Reporter):
        def __init__(self):
            super().__init__(quiet=True)
            self.tasks = {}

        @contextlib.contextmanager
        def task(self, name, total=None):
            with super().task(name, total) as task:
                yield task
            self.tasks[name] = (task._done, total)

    return Counting()
