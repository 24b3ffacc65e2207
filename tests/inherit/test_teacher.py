import json

import pytest
import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.cli import main
from edgetiny.config.data import DataBuildConfig
from edgetiny.config.model import InheritConfig
from edgetiny.config.tokenizer import TokenizerCompressConfig, TokenizerTrainConfig
from edgetiny.data.build import run as build
from edgetiny.design import Design, to_toml
from edgetiny.errors import ConfigError, DataError
from edgetiny.files import read_json
from edgetiny.inherit.stage import run
from edgetiny.model import load_model
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.compress import run as compress
from edgetiny.tokenizer.train import run as train_tokenizer

SIZE, ROWS = 400, 448


@pytest.fixture
def teacher(make_checkpoint, tiny_tokenizer):
    source = make_checkpoint(
        tokenizer=tiny_tokenizer, vocab_size=512, tie_word_embeddings=False, num_hidden_layers=3
    )
    path = source.path / "generation_config.json"
    path.write_text(json.dumps(read_json(path) | {"suppress_tokens": [3, 511], "top_k": 7}))
    return source


@pytest.fixture
def small(teacher, tiny_text, tmp_path):
    """Return a compact tokenizer of the teacher's, without a checkpoint."""
    out = tmp_path / "small"
    tokenizer = Tokenizer.open(teacher.path).path
    compress(TokenizerCompressConfig(source=tokenizer, text=(tiny_text,), out=out, vocab_size=SIZE))
    return out


@pytest.fixture
def shards(small, tiny_text, tmp_path):
    out = tmp_path / "shards"
    build(DataBuildConfig(text=(tiny_text,), tokenizer=small, out=out, valid_fraction=0.2))
    return out


def inherit(teacher, small, shards, out, **settings):
    return run(
        InheritConfig(
            source=teacher.path, tokenizer=small, data=shards, out=out, calibration_tokens=100,
            **settings,
        )
    )  # fmt: skip


def test_only_the_rows_change_if_nothing_else_is_asked(teacher, small, shards, tmp_path):
    student = inherit(teacher, small, shards, tmp_path / "out")
    new_to_old = read_json(small / "vocab_map.json")["new_to_old"]
    assert student.config.vocab_size == ROWS
    for name in teacher.names():
        ours, theirs = student.tensor(name), teacher.tensor(name)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            ours, theirs = ours[:SIZE], theirs[new_to_old]
        assert torch.equal(ours, theirs), name


def test_logits_of_kept_ids_are_the_teachers(teacher, small, shards, tmp_path):
    student = inherit(teacher, small, shards, tmp_path / "out")
    new_to_old = torch.tensor(read_json(small / "vocab_map.json")["new_to_old"])
    tokens = torch.randint(0, SIZE, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = load_model(student)(tokens)[..., :SIZE]
        theirs = load_model(teacher)(new_to_old[tokens])[..., new_to_old]
    assert torch.equal(ours, theirs)


def test_it_is_what_compressing_first_gives(teacher, tiny_text, tmp_path):
    compact = tmp_path / "compact"
    compress(
        TokenizerCompressConfig(source=teacher.path, text=(tiny_text,), out=compact,
                                vocab_size=SIZE)
    )  # fmt: skip
    shards = tmp_path / "shards"
    build(DataBuildConfig(text=(tiny_text,), tokenizer=compact, out=shards, valid_fraction=0.2))
    axes = {"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 32}
    at_once = inherit(teacher, compact, shards, tmp_path / "one", **axes)
    source = Checkpoint.open(compact)
    in_two = inherit(source, None, shards, tmp_path / "two", **axes)
    assert at_once.config == in_two.config
    for name in in_two.names():
        assert torch.equal(at_once.tensor(name), in_two.tensor(name)), name
    for file in ("tokenizer.model", "generation_config.json", "vocab_map.json"):
        assert (at_once.path / file).read_bytes() == (in_two.path / file).read_bytes(), file
    assert read_json(at_once.path / "generation_config.json")["suppress_tokens"] == [3]
    assert [each["sha256"] for each in at_once.lineage["ancestors"]] == [teacher.sha256]


@pytest.mark.parametrize("method", ["taylor", "activation", "learned"])
def test_a_student_by_a_method_loads(teacher, small, shards, tmp_path, method):
    settings = (
        {"mask_steps": 60, "mask_batch_size": 2, "mask_learning_rate": 0.3}
        if method == "learned"
        else {}
    )
    student = inherit(
        teacher, small, shards, tmp_path / "out", method=method, hidden_size=24, **settings
    )
    assert (student.config.hidden_size, student.config.vocab_size) == (24, ROWS)
    assert Tokenizer.open(student.path).vocab_size == SIZE
    assert torch.isfinite(load_model(student)(torch.ones(1, 3, dtype=torch.long))).all()


def test_a_design_of_the_compact_rows_is_taken(teacher, small, shards, tmp_path):
    path = tmp_path / "student.toml"
    whole = inherit(teacher, small, shards, tmp_path / "whole").config
    path.write_text(to_toml(Design("whole", "a test", whole)))
    assert inherit(teacher, small, shards, tmp_path / "out", to=path).config.vocab_size == ROWS
    with pytest.raises(ConfigError, match="give --tokenizer"):
        inherit(teacher, None, shards, tmp_path / "other", to=path)


def test_a_tokenizer_that_is_not_compact_is_refused(teacher, tiny_tokenizer, shards, tmp_path):
    with pytest.raises(DataError, match=r"no vocab_map\.json, so it is no compact tokenizer"):
        inherit(teacher, tiny_tokenizer, shards, tmp_path / "out")


def test_a_compact_tokenizer_of_another_model_is_refused(teacher, small, shards, tmp_path, capsys):
    other, text = tmp_path / "other", tmp_path / "text.txt"
    text.write_text("a stranger and other words\n" * 200)
    train_tokenizer(TokenizerTrainConfig(text=(text,), out=other, vocab_size=300))
    stranger = tmp_path / "stranger"
    compress(TokenizerCompressConfig(source=other, text=(text,), out=stranger, vocab_size=290))
    words = [str(teacher.path), "--tokenizer", str(stranger), "--data", str(shards)]
    assert main(["inherit", *words, "--out", str(tmp_path / "out")]) == 2
    assert "was made from another tokenizer than the one in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_map_is_refused(teacher, small, shards, tmp_path):
    path = small / "vocab_map.json"
    mapping = read_json(path)
    path.write_text(json.dumps(mapping | {"new_to_old": mapping["new_to_old"][:-1]}))
    with pytest.raises(DataError, match="does not fit the tokenizer beside it"):
        inherit(teacher, small, shards, tmp_path / "out")


def test_a_role_that_was_lost_is_named(teacher, small, shards, tmp_path):
    lost = min(set(range(512)) - set(read_json(small / "vocab_map.json")["new_to_old"]))
    path = teacher.path / "generation_config.json"
    path.write_text(json.dumps(read_json(path) | {"eos_token_id": [2, lost]}))
    with pytest.raises(DataError, match=r"lacks .* to which the model's settings give a role"):
        inherit(teacher, small, shards, tmp_path / "out")


def test_shards_of_the_old_tokenizer_are_refused(teacher, small, tiny_text, tmp_path):
    shards = tmp_path / "old"
    build(DataBuildConfig(text=(tiny_text,), tokenizer=teacher.path, out=shards))
    with pytest.raises(DataError, match="build shards with the model's tokenizer"):
        inherit(teacher, small, shards, tmp_path / "out")


def test_a_teacher_without_a_tokenizer_is_refused(make_checkpoint, small, shards, tmp_path):
    with pytest.raises(DataError, match="tokenizer"):
        inherit(make_checkpoint("bare", vocab_size=512), small, shards, tmp_path / "out")
