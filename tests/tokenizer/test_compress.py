import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes, write_checkpoint
from edgetiny.config.tokenizer import TokenizerCompressConfig
from edgetiny.errors import CheckpointError, ConfigError, DataError
from edgetiny.files import read_json
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.compress import TokenizerCompressResult, run

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "vocab_map.schema.json"
SIZE = 400


def _compress(
    source: Path, text: Path, out: Path, vocab_size: int = SIZE, **settings: Any
) -> TokenizerCompressResult:
    config = TokenizerCompressConfig(
        source=source, text=(text,), out=out, vocab_size=vocab_size, **settings
    )
    return run(config)


def _map(folder: Path) -> list[int]:
    mapping = read_json(folder / "vocab_map.json", schema_version=1)
    jsonschema.validate(mapping, read_json(SCHEMA))
    assert len(mapping["new_to_old"]) == mapping["vocab_size"]
    new_to_old: list[int] = mapping["new_to_old"]
    assert new_to_old == sorted(new_to_old)
    return new_to_old


def _write(folder: Path, config: ModelConfig, tokenizer: Path) -> None:
    folder.mkdir()
    tensors = {name: torch.randn(shape) for name, shape in parameter_shapes(config).items()}
    write_checkpoint(
        folder, config, tensors, stage="init", settings={}, parent=None, tokenizer=tokenizer
    )


def test_a_tokenizer_becomes_a_tokenizer(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    result = _compress(tiny_tokenizer, tiny_text, tmp_path / "out")
    source, compact = Tokenizer.open(tiny_tokenizer), Tokenizer.open(tmp_path / "out")
    new_to_old = _map(tmp_path / "out")
    assert compact.vocab_size == result.rows == len(new_to_old) == SIZE
    for new, old in enumerate(new_to_old):
        assert compact.token_bytes(new) == source.token_bytes(old)
    assert (compact.bos_id, compact.eos_id) == (1, 2)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "tokenizer.model",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab_map.json",
    }


def test_report_agrees_with_the_text(tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path) -> None:
    result = _compress(tiny_tokenizer, tiny_text, tmp_path / "out")
    text = tiny_text.read_text(encoding="utf-8")
    ids = Tokenizer.open(tiny_tokenizer).encode(text)
    kept = set(_map(tmp_path / "out"))
    assert result.bytes == len(text.encode())
    assert result.tokens_before == len(ids)
    assert result.tokens_after == len(Tokenizer.open(tmp_path / "out").encode(text))
    assert result.coverage == pytest.approx(sum(index in kept for index in ids) / len(ids))
    assert result.tokens_before < result.tokens_after
    summary = result.summary()
    assert summary["token_growth"] == pytest.approx(
        summary["tokens_per_byte_after"] / summary["tokens_per_byte_before"] - 1
    )
    json.dumps(summary)


@pytest.mark.parametrize("tie", [True, False])
def test_a_checkpoint_keeps_the_rows_of_the_kept_pieces(
    tmp_path: Path, tiny_config: ModelConfig, tiny_tokenizer: Path, tiny_text: Path, tie: bool
) -> None:
    _write(tmp_path / "in", replace(tiny_config, tie_word_embeddings=tie), tiny_tokenizer)
    result = _compress(tmp_path / "in", tiny_text, tmp_path / "out")
    source, compact = Checkpoint.open(tmp_path / "in"), Checkpoint.open(tmp_path / "out")
    new_to_old = _map(tmp_path / "out")
    assert compact.config == replace(source.config, vocab_size=SIZE)
    sliced = {"model.embed_tokens.weight"} | (set() if tie else {"lm_head.weight"})
    for name, tensor in compact.state_dict().items():
        before = source.tensor(name)
        assert torch.equal(tensor, before[new_to_old] if name in sliced else before)
    hidden, n_tables = source.config.hidden_size, len(sliced)
    assert result.parameters_removed == (512 - SIZE) * hidden * n_tables
    lineage = compact.lineage
    assert lineage["stage"] == "tokenizer_compress"
    assert lineage["metrics"]["coverage"] == result.coverage
    assert Tokenizer.open(tmp_path / "out").vocab_size == SIZE


def test_special_ids_are_rewritten(
    tmp_path: Path, tiny_config: ModelConfig, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    # 510 and 511 are ordinary pieces that this model uses as specials: they must stay.
    special = replace(tiny_config, bos_token_id=1, eos_token_ids=(2, 511), pad_token_id=510)
    _write(tmp_path / "in", special, tiny_tokenizer)
    _compress(tmp_path / "in", tiny_text, tmp_path / "out", vocab_size=300)
    config, new_to_old = Checkpoint.open(tmp_path / "out").config, _map(tmp_path / "out")
    assert config.pad_token_id is not None
    assert new_to_old[config.pad_token_id] == 510
    assert [new_to_old[index] for index in config.eos_token_ids] == [2, 511]
    generation = read_json(tmp_path / "out" / "generation_config.json")
    assert generation["eos_token_id"] == list(config.eos_token_ids)
    assert generation["bos_token_id"] == 1


def test_padding_rows_beyond_the_pieces_are_dropped(
    tmp_path: Path, tiny_config: ModelConfig, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    _write(tmp_path / "in", replace(tiny_config, vocab_size=576), tiny_tokenizer)
    _compress(tmp_path / "in", tiny_text, tmp_path / "out")
    assert max(_map(tmp_path / "out")) < 512


def test_hugging_face_gives_the_same_compact_ids(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    _compress(tiny_tokenizer, tiny_text, tmp_path / "out", vocab_size=320)
    compact = Tokenizer.open(tmp_path / "out")
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for line in [*tiny_text.read_text(encoding="utf-8").split("\n"), "中文", "a   b"]:
        assert other.encode(line, add_special_tokens=False).ids == compact.encode(line)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mistral_v1_32k", "internlm_v7_sft"])
def test_real_compact_tokenizers_give_the_same_ids_in_hugging_face(
    tmp_path: Path, shared_data: Path, real_text: dict[str, list[str]], name: str
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    (tmp_path / "a.txt").write_text("\n".join(real_text["en"])[:500_000], encoding="utf-8")
    model = shared_data / "tokenizers" / f"{name}.model"
    _compress(model, tmp_path / "a.txt", tmp_path / "out", vocab_size=6000)
    compact = Tokenizer.open(tmp_path / "out")
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in [text[:5_000] for texts in real_text.values() for text in texts]:
        assert other.encode(text, add_special_tokens=False).ids == compact.encode(text)


def test_chat_template_is_kept(tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(tiny_tokenizer, source)
    (source / "chat_template.jinja").write_text("{{ messages }}")
    config = read_json(source / "tokenizer_config.json") | {"chat_template": "{{ messages }}"}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    _compress(source, tiny_text, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    kept = read_json(tmp_path / "out" / "tokenizer_config.json")
    assert kept["chat_template"] == "{{ messages }}"


def test_compressing_twice_is_compressing(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    _compress(tiny_tokenizer, tiny_text, tmp_path / "a", vocab_size=450)
    _compress(tmp_path / "a", tiny_text, tmp_path / "b", vocab_size=350)
    first, second = _map(tmp_path / "a"), _map(tmp_path / "b")
    source, compact = Tokenizer.open(tiny_tokenizer), Tokenizer.open(tmp_path / "b")
    for new, middle in enumerate(second):
        assert compact.token_bytes(new) == source.token_bytes(first[middle])


def test_a_vocabulary_that_does_not_match_is_refused(
    tmp_path: Path, tiny_config: ModelConfig, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    _write(tmp_path / "small", replace(tiny_config, vocab_size=500), tiny_tokenizer)
    with pytest.raises(CheckpointError, match="500 embedding rows but its tokenizer has 512"):
        _compress(tmp_path / "small", tiny_text, tmp_path / "out")
    added = replace(tiny_config, vocab_size=576, eos_token_ids=(2, 512))
    _write(tmp_path / "added", added, tiny_tokenizer)
    with pytest.raises(CheckpointError, match="special id 512 lies beyond the 512 pieces"):
        _compress(tmp_path / "added", tiny_text, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    with pytest.raises(DataError, match="does not exist"):
        _compress(tmp_path / "nowhere", tiny_text, tmp_path / "out")
    with pytest.raises(ConfigError, match="choose from 259 to 511"):
        _compress(tiny_tokenizer, tiny_text, tmp_path / "out", vocab_size=48_000)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="holds no text"):
        _compress(tiny_tokenizer, tmp_path / "empty.txt", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_other_kinds_are_refused_by_name(
    tmp_path: Path, shared_data: Path, tiny_text: Path
) -> None:
    unigram = shared_data / "tokenizers" / "sp_test_unigram1k.model"
    with pytest.raises(DataError, match="is SentencePiece unigram; supported is SentencePiece BPE"):
        _compress(unigram, tiny_text, tmp_path / "out")
