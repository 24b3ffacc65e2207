import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes, write_checkpoint
from edgetiny.cli import main
from edgetiny.config.tokenizer import TokenizerCompressConfig
from edgetiny.errors import ConfigError
from edgetiny.files import read_json
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.compress import run

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "vocab_map.schema.json"
SIZE = 420


@pytest.fixture(params=["sentencepiece", "byte-level"])
def source(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> Path:
    """Return the folder of a tokenizer of 512 pieces."""
    if request.param == "sentencepiece":
        return tiny_tokenizer
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train(
        [str(tiny_text)],
        trainers.BpeTrainer(
            vocab_size=511, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
        ),
    )
    trained.add_tokens(["  indent"])
    folder = tmp_path / "byte_level"
    folder.mkdir()
    trained.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": "<s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return folder


@pytest.fixture
def other_text(tmp_path: Path) -> Path:
    """Return text that the tokenizers were not trained on."""
    path = tmp_path / "other.txt"
    words = [f"xylophone{a} quizzical{b}" for a in "abcdefgh" for b in "ijklmnop"]
    lines = [" ".join(words[i:] + words[:i]) for i in range(20)]
    more = "Vexing zebras jinxed my pyjama wharf, quickly boggling the oblivious sphinx.\n" * 5
    vowels = [f"{a}{b}{c}uq" for a in "zxkjw" for b in "aeiou" for c in "bcdfgh"]
    path.write_text("\n".join(lines) + more + " ".join(vowels * 4), encoding="utf-8")
    return path


def _means(folder: Path) -> list[list[int]]:
    mapping = read_json(folder / "vocab_map.json", schema_version=1)
    jsonschema.validate(mapping, read_json(SCHEMA))
    means: list[list[int]] = mapping["new_to_old_means"]
    assert len(means) == mapping["vocab_size"] == SIZE
    return means


def test_new_pieces_are_spelled_in_old_ones(tmp_path: Path, source: Path, other_text: Path) -> None:
    result = run(
        TokenizerCompressConfig(
            source=source, text=(other_text,), out=tmp_path / "out", vocab_size=SIZE, retrain=True
        )
    )
    old, new = Tokenizer.open(source), Tokenizer.open(tmp_path / "out")
    means = _means(tmp_path / "out")
    assert new.vocab_size == result.pieces == SIZE
    for index, spelling in enumerate(means):
        assert new.token_bytes(index) == b"".join(old.token_bytes(each) for each in spelling)
    assert max(map(len, means)) > 2
    assert old.bos_id is not None
    assert new.bos_id is not None
    assert means[new.bos_id] == [old.bos_id]
    text = other_text.read_text(encoding="utf-8")
    assert new.decode(new.encode(text)) == text
    assert result.summary()["token_growth"] < -0.1
    for strange in ("\u4e2d\u6587 \U0001f600", "  indent\t\n", "zebra"):
        assert new.decode(new.encode(strange)) == strange


def test_a_piece_with_a_role_stays(tmp_path: Path, tiny_tokenizer: Path, other_text: Path) -> None:
    source = shutil.copytree(tiny_tokenizer, tmp_path / "in")
    piece = max(Tokenizer.open(source).vocabulary().pieces[3 + 256 :], key=len)
    (source / "tokenizer_config.json").write_text(json.dumps({"eos_token": piece}))
    run(
        TokenizerCompressConfig(
            source=source, text=(other_text,), out=tmp_path / "out", vocab_size=SIZE, retrain=True
        )
    )
    assert piece in Tokenizer.open(tmp_path / "out").vocabulary().pieces


@pytest.mark.parametrize("tie", [True, False])
def test_rows_are_means_of_old_rows(
    tmp_path: Path,
    tiny_config: ModelConfig,
    tiny_tokenizer: Path,
    other_text: Path,
    tie: bool,
) -> None:
    config = replace(tiny_config, tie_word_embeddings=tie)
    (tmp_path / "in").mkdir()
    tensors = {name: torch.randn(shape) for name, shape in parameter_shapes(config).items()}
    write_checkpoint(
        tmp_path / "in",
        config,
        tensors,
        stage="init",
        settings={},
        parent=None,
        tokenizer=tiny_tokenizer,
    )
    words = ["tokenizer", "compress", str(tmp_path / "in"), "--text", str(other_text)]
    out = tmp_path / "out"
    assert main([*words, "--vocab-size", str(SIZE), "--retrain", "--out", str(out)]) == 0
    compact, means = Checkpoint.open(out), _means(out)
    assert compact.config.vocab_size == 448
    assert compact.config.bos_token_id == 1
    assert compact.config.eos_token_ids == (2,)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name not in tensors:
            continue
        table = compact.tensor(name)
        for index, old in enumerate(means):
            expected = tensors[name][old].mean(dim=0) if len(old) > 1 else tensors[name][old[0]]
            assert torch.equal(table[index], expected)
        torch.testing.assert_close(table[SIZE:], table[:SIZE].mean(dim=0).expand(28, -1))


def test_too_little_text_is_one_line(tmp_path: Path, source: Path) -> None:
    text = tmp_path / "little.txt"
    text.write_text("a little text")
    config = TokenizerCompressConfig(
        source=source, text=(text,), out=tmp_path / "out", vocab_size=SIZE, retrain=True
    )
    with pytest.raises(ConfigError, match="more than this text gives"):
        run(config)
    assert not (tmp_path / "out").exists()


def test_retraining_needs_text_and_a_size(tmp_path: Path) -> None:
    for settings in ({"auto": True, "text": (tmp_path,)}, {"vocab_size": 9, "counts": tmp_path}):
        with pytest.raises(ConfigError, match="--retrain learns --vocab-size pieces from --text"):
            TokenizerCompressConfig.load(
                flags={"source": tmp_path, "out": tmp_path, "retrain": True, **settings}
            )
