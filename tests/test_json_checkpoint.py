"""A checkpoint whose tokenizer is a byte-level `tokenizer.json` goes through every stage."""

import io
import json
from pathlib import Path

import pytest
import tokenizers

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.data import DataBuildConfig
from edgetiny.config.model import InitConfig
from edgetiny.config.run import EvalConfig, GenerateConfig
from edgetiny.config.tokenizer import TokenizerCompressConfig
from edgetiny.config.train import TrainConfig
from edgetiny.data import Shards
from edgetiny.data.build import run as data_build
from edgetiny.errors import DataError
from edgetiny.evaluate.stage import run as evaluate
from edgetiny.generate.stage import run as generate
from edgetiny.init import run as init
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.compress import run as compress
from edgetiny.train.stage import run as train

N_PIECES = 500


@pytest.fixture(scope="module")
def json_tokenizer(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("json") / "tokenizer"
    folder.mkdir()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=N_PIECES,
        special_tokens=["<|end|>"],
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train([str(tiny_text)], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def shards(json_tokenizer: Path, tiny_text: Path) -> Shards:
    out = json_tokenizer.parent / "shards"
    return data_build(DataBuildConfig(text=(tiny_text,), tokenizer=json_tokenizer, out=out))


@pytest.fixture(scope="module")
def trained(json_tokenizer: Path, shards: Shards) -> Checkpoint:
    folder = json_tokenizer.parent
    start = init(
        InitConfig(
            tokenizer=json_tokenizer,
            out=folder / "start",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    )
    return train(
        TrainConfig(
            checkpoint=start.path,
            data=shards.path,
            out=folder / "model",
            steps=3,
            batch_size=2,
            sequence_length=32,
        )
    )


def test_shards_hold_its_ids_and_its_tokenizer(json_tokenizer: Path, shards: Shards) -> None:
    assert shards.tokenizer_path is not None
    tokenizer = Tokenizer.open(shards.tokenizer_path)
    assert tokenizer.sha256 == Tokenizer.open(json_tokenizer).sha256 == shards.tokenizer_sha256
    assert tokenizer.eos_id == 0
    tokens = shards.train.tokens[:200].tolist()
    assert tokens[0] == tokenizer.eos_id, "without BOS, EOS stands before each document"
    assert "assert" in tokenizer.decode(tokens)


def test_a_model_is_trained_scored_and_continued(trained: Checkpoint, shards: Shards) -> None:
    names = {path.name for path in trained.path.iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json"} <= names
    assert "tokenizer.model" not in names
    assert trained.config.eos_token_ids == (0,)
    scores = evaluate(EvalConfig(source=trained.path, data=shards.path))
    assert scores.summary()
    out = io.StringIO()
    generate(GenerateConfig(source=trained.path, prompt="The", max_new_tokens=4), stream_to=out)
    assert out.getvalue().endswith("\n")


def test_shards_of_another_tokenizer_are_refused(
    trained: Checkpoint, tiny_tokenizer: Path, tiny_text: Path, tmp_path: Path
) -> None:
    # As many pieces at most as the model has rows, or the refusal would be another one.
    other = compress(
        TokenizerCompressConfig(
            source=tiny_tokenizer, text=(tiny_text,), out=tmp_path / "small", vocab_size=400
        )
    )
    config = DataBuildConfig(text=(tiny_text,), tokenizer=other.path, out=tmp_path / "shards")
    with pytest.raises(DataError, match="was made with another tokenizer"):
        evaluate(EvalConfig(source=trained.path, data=data_build(config).path))


def test_its_vocabulary_is_made_smaller(
    trained: Checkpoint, tiny_text: Path, tmp_path: Path
) -> None:
    compress(
        TokenizerCompressConfig(
            source=trained.path, text=(tiny_text,), out=tmp_path / "small", vocab_size=400
        )
    )
    small = Checkpoint.open(tmp_path / "small")
    tokenizer = Tokenizer.open(small.path)
    assert tokenizer.vocab_size == 400
    assert small.config.eos_token_ids == (tokenizer.eos_id,)
    text = tiny_text.read_text(encoding="utf-8")[:5_000]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_its_artefact_holds_the_tokenizer(trained: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from edgetiny.config.export import ExportConfig
    from edgetiny.export.stage import run as export

    export(ExportConfig(source=trained.path, out=tmp_path / "artefact"))
    copy = tmp_path / "artefact" / "tokenizer.json"
    assert copy.read_bytes() == (trained.path / "tokenizer.json").read_bytes()
    manifest = json.loads((tmp_path / "artefact" / "manifest.json").read_text())
    assert manifest["tokenizer_sha256"] == Tokenizer.open(trained.path).sha256
