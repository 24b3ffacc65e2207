import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes, write_checkpoint
from edgetiny.config.tokenizer import TokenizerCompressConfig, TokenizerCountConfig
from edgetiny.console import Reporter
from edgetiny.errors import CheckpointError, ConfigError, DataError
from edgetiny.files import read_json
from edgetiny.model import load_model
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.compress import TokenizerCompressResult, run
from edgetiny.tokenizer.count import run as count

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "vocab_map.schema.json"
SIZE, ROWS = 400, 448


def _compress(
    source: Path, text: Path, out: Path, vocab_size: int | None = SIZE, **settings: Any
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
    summary = result.summary()
    assert summary["bytes"] == len(text.encode())
    assert summary["tokens_before"] == len(ids)
    assert summary["tokens_after"] == len(Tokenizer.open(tmp_path / "out").encode(text))
    assert summary["coverage"] == pytest.approx(sum(index in kept for index in ids) / len(ids))
    assert summary["tokens_before"] < summary["tokens_after"]
    assert [row["group"] for row in summary["groups"]] == [tiny_text.stem]
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
    assert compact.config == replace(source.config, vocab_size=ROWS)
    sliced = {"model.embed_tokens.weight"} | (set() if tie else {"lm_head.weight"})
    for name, tensor in compact.state_dict().items():
        before = source.tensor(name)
        assert torch.equal(
            tensor[:SIZE] if name in sliced else tensor,
            before[new_to_old] if name in sliced else before,
        )
        if name in sliced:
            assert torch.equal(tensor[SIZE:], tensor[:SIZE].mean(dim=0).expand(ROWS - SIZE, -1))
    hidden, n_tables = source.config.hidden_size, len(sliced)
    assert result.parameters_removed == (512 - ROWS) * hidden * n_tables
    assert read_json(tmp_path / "out" / "vocab_map.json")["embedding_rows"] == result.rows == ROWS
    lineage = compact.lineage
    assert lineage["stage"] == "tokenizer_compress"
    assert lineage["metrics"]["coverage"] == result.coverage
    assert lineage["metrics"]["rows"] - lineage["metrics"]["pieces"] == ROWS - SIZE
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


def test_every_setting_that_names_ids_is_rewritten(
    tmp_path: Path, tiny_config: ModelConfig, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    _write(tmp_path / "in", tiny_config, tiny_tokenizer)
    source = Tokenizer.open(tiny_tokenizer)
    rare = source.encode("~^~")
    generation = {
        "eos_token_id": [2, 509],
        "temperature": 0.7,
        "suppress_tokens": list(range(500, 512)),
        "bad_words_ids": [source.encode("the"), [509, 510]],
        "sequence_bias": [[rare, -1.0]],
    }
    (tmp_path / "in" / "generation_config.json").write_text(json.dumps(generation))
    config = read_json(tmp_path / "in" / "config.json") | {"sep_token_id": 508}
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    _compress(tmp_path / "in", tiny_text, tmp_path / "out", vocab_size=300)
    compact, new_to_old = Tokenizer.open(tmp_path / "out"), _map(tmp_path / "out")
    written = read_json(tmp_path / "out" / "generation_config.json")
    assert [new_to_old[index] for index in written["eos_token_id"]] == [2, 509]
    assert written["temperature"] == 0.7
    left = {new_to_old[index] for index in written["suppress_tokens"]}
    assert left == set(range(500, 512)) & set(new_to_old)
    assert len(left) < 12
    assert written["bad_words_ids"] == [
        compact.encode("the"),
        compact.encode(source.decode([509, 510])),
    ]
    assert written["sequence_bias"] == [[compact.encode("~^~"), -1.0]]
    assert new_to_old[read_json(tmp_path / "out" / "config.json")["sep_token_id"]] == 508


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_all_tokens_are_kept_the_logits_are_equal_bit_for_bit(
    tmp_path: Path,
    tiny_config: ModelConfig,
    tiny_tokenizer: Path,
    tiny_text: Path,
    tie: bool,
    dtype: torch.dtype,
) -> None:
    _write(tmp_path / "in", replace(tiny_config, tie_word_embeddings=tie), tiny_tokenizer)
    _compress(tmp_path / "in", tiny_text, tmp_path / "out")
    source, compact = Tokenizer.open(tmp_path / "in"), Tokenizer.open(tmp_path / "out")
    new_to_old = _map(tmp_path / "out")
    old, new = (load_model(Checkpoint.open(tmp_path / name), dtype) for name in ("in", "out"))
    n_compared = 0
    for line in tiny_text.read_text(encoding="utf-8").split("\n"):
        before = source.encode(line)[:120]
        if not before or not set(before) <= set(new_to_old):
            continue
        after = compact.encode(source.decode(before))
        assert [new_to_old[index] for index in after] == before
        with torch.no_grad():
            expected = old(torch.tensor([before]))[..., new_to_old]
            found = new(torch.tensor([after]))
        assert torch.equal(found[..., :SIZE], expected)
        # The mean of rows is never the likeliest: no greedy decoder emits a padding row.
        assert int(found.argmax(dim=-1).max()) < SIZE
        n_compared += 1
        if n_compared == 40:
            break
    assert n_compared == 40


def test_coverage_asks_for_the_fewest_rows(
    tmp_path: Path, tiny_checkpoint: Checkpoint, tiny_text: Path
) -> None:
    source = tiny_checkpoint.path
    middle = _compress(source, tiny_text, tmp_path / "middle", vocab_size=384)
    same = _compress(source, tiny_text, tmp_path / "same", None, coverage=middle.coverage)
    assert (same.rows, same.pieces) == (384, 384)
    more = _compress(source, tiny_text, tmp_path / "more", None, coverage=middle.coverage + 1e-6)
    assert more.rows == 448
    with pytest.raises(ConfigError, match=r"--coverage 1.0 cannot be reached with 448 pieces"):
        _compress(tiny_checkpoint.path, tiny_text, tmp_path / "none", None, coverage=1.0)


def test_kept_texts_are_tokenized_as_before(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    source = Tokenizer.open(tiny_tokenizer)
    text = "zyxwv quixotic"
    keep = tmp_path / "keep.txt"
    keep.write_text(f"{text}\n\n", encoding="utf-8")
    _compress(tiny_tokenizer, tiny_text, tmp_path / "without", vocab_size=280)
    assert not set(source.encode(text)) <= set(_map(tmp_path / "without"))
    _compress(tiny_tokenizer, tiny_text, tmp_path / "out", vocab_size=300, keep=keep)
    new_to_old = _map(tmp_path / "out")
    ids = Tokenizer.open(tmp_path / "out").encode(text)
    assert [new_to_old[index] for index in ids] == source.encode(text)
    keep.write_text("\u2581the", encoding="utf-8")
    _compress(tiny_tokenizer, tiny_text, tmp_path / "piece", vocab_size=300, keep=keep)
    assert b" the" in {source.token_bytes(index) for index in _map(tmp_path / "piece")}


def test_digits_stay_where_there_is_room(
    tmp_path: Path, make_tokenizer: Callable[..., Tokenizer]
) -> None:
    # In bytes they take no more tokens, but the model has not learnt those.
    pairs = [a + b for a in "abcdef" for b in "abcdef"]
    source = make_tokenizer([*pairs, *"abcdef", *"0123456789"])
    text = tmp_path / "text.txt"
    text.write_text("abcdef 10 23 45 67 89 " * 30)
    _compress(source.path, text, tmp_path / "out", vocab_size=290)
    kept = {source.token_bytes(index) for index in _map(tmp_path / "out")[259:]}
    assert kept >= {digit.encode() for digit in "0123456789"}


def test_counts_choose_as_their_text_does(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    counts = tmp_path / "counts.json"
    count(TokenizerCountConfig(source=tiny_tokenizer, text=(tiny_text,), out=counts))
    by_text = _compress(tiny_tokenizer, tiny_text, tmp_path / "by_text")
    config = TokenizerCompressConfig(
        source=tiny_tokenizer, counts=counts, out=tmp_path / "by_counts", vocab_size=SIZE
    )
    by_counts = run(config)
    assert by_counts.coverage == by_text.coverage
    for name in ("tokenizer.model", "tokenizer.json", "vocab_map.json"):
        same = (tmp_path / "by_text" / name).read_bytes()
        assert (tmp_path / "by_counts" / name).read_bytes() == same
    assert "token_growth" not in by_counts.summary()
    other = tmp_path / "other.txt"
    other.write_text("the text of the report is another one")
    both = _compress(tiny_tokenizer, other, tmp_path / "both", counts=counts)
    assert both.coverage == by_text.coverage
    assert both.summary()["bytes"] == len("the text of the report is another one")


def test_a_script_that_is_barely_covered_is_told(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "zh.txt"
    other.write_text("\u5929\u5730\u7384\u9ec4" * 20, encoding="utf-8")
    config = TokenizerCompressConfig(
        source=tiny_tokenizer, text=(tiny_text, other), out=tmp_path / "out", vocab_size=SIZE
    )
    run(config, Reporter())
    [warning] = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "zh 100% of the tokens" in warning
    assert tiny_text.stem not in warning


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
