from collections.abc import Callable
from pathlib import Path

import pytest

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.data import DataBuildConfig
from edgetiny.config.export import ExportConfig
from edgetiny.config.run import EvalConfig
from edgetiny.config.tokenizer import TokenizerTrainConfig
from edgetiny.console import Reporter
from edgetiny.data import Shards
from edgetiny.data.build import run as build
from edgetiny.errors import CheckpointError, ConfigError, DataError
from edgetiny.evaluate.stage import run
from edgetiny.export.stage import run as export
from edgetiny.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def shards(
    tmp_path_factory: pytest.TempPathFactory, tiny_text: Path, tiny_tokenizer: Path
) -> Shards:
    out = tmp_path_factory.mktemp("eval") / "shards"
    return build(
        DataBuildConfig(
            text=(tiny_text,), tokenizer=tiny_tokenizer, out=out, valid_fraction=0.1, processes=1
        )
    )


@pytest.fixture
def held_out(tmp_path: Path, shards: Shards) -> Path:
    """The held-out part as text again: one document a file."""
    tokenizer = Tokenizer.open(shards.tokenizer_path or Path())
    assert shards.valid.n_documents == 1
    path = tmp_path / "topics.txt"
    path.write_text(tokenizer.decode(shards.valid.tokens.tolist()), encoding="utf-8")
    return path


def test_shards_and_their_text_give_the_same(
    tiny_checkpoint: Checkpoint, shards: Shards, held_out: Path
) -> None:
    by_shards = run(EvalConfig(source=tiny_checkpoint.path, data=shards.path, threads=1))
    by_text = run(EvalConfig(source=tiny_checkpoint.path, text=(held_out,), threads=1))
    assert by_shards.bits_per_byte == pytest.approx(by_text.bits_per_byte)
    assert by_shards.total.tokens == by_text.total.tokens == len(shards.valid.tokens) - 1
    assert by_shards.total.text_bytes == held_out.stat().st_size
    [row] = by_shards.summary()["scores"]
    assert row["group"] == "topics"
    assert row["tokens_per_byte"] == row["tokens"] / row["bytes"]


def test_every_setting_acts(tiny_checkpoint: Checkpoint, shards: Shards) -> None:
    def score(**changes):
        return run(
            EvalConfig(source=tiny_checkpoint.path, data=shards.path, threads=1, **changes)
        ).total

    whole = score()
    assert score(tokens=100).tokens == 100
    assert score(context=8).nats != whole.nats
    assert score(context=128).nats == whole.nats
    assert score(batch_size=1).nats == pytest.approx(whole.nats)


def test_windows_are_as_long_as_the_training(
    tiny_checkpoint: Checkpoint,
    shards: Shards,
    trained_on: Callable[[Checkpoint, int], Checkpoint],
) -> None:
    source = trained_on(tiny_checkpoint, 24).path

    def nats(**changes):
        config = EvalConfig(source=source, data=shards.path, tokens=600, threads=1, **changes)
        return run(config).total.nats

    assert nats() == nats(context=24) != nats(context=128)


def test_an_artefact_says_how_long_its_model_was_trained(
    tiny_checkpoint: Checkpoint,
    shards: Shards,
    trained_on: Callable[[Checkpoint, int], Checkpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime")
    source, artefact = trained_on(tiny_checkpoint, 24).path, tmp_path / "artefact"
    export(ExportConfig(source=source, precision="fp32", context=64, out=artefact))
    config = EvalConfig(source=artefact, data=shards.path, tokens=600, threads=1)
    run(config, Reporter())
    assert "scoring windows of 24 tokens" in capsys.readouterr().err


def test_text_or_data_but_not_both(tiny_checkpoint: Checkpoint, shards: Shards) -> None:
    with pytest.raises(ConfigError, match="either --data or --text"):
        EvalConfig(source=tiny_checkpoint.path)
    with pytest.raises(ConfigError, match="either --data or --text"):
        EvalConfig(source=tiny_checkpoint.path, data=shards.path, text=(Path("x.txt"),))


def test_a_window_beyond_the_model_is_refused(tiny_checkpoint: Checkpoint, shards: Shards) -> None:
    with pytest.raises(ConfigError, match="2 to 128"):
        run(EvalConfig(source=tiny_checkpoint.path, data=shards.path, context=129))


def test_shards_with_nothing_held_out_are_refused(
    tiny_checkpoint: Checkpoint, tmp_path: Path, tiny_text: Path, tiny_tokenizer: Path
) -> None:
    build(
        DataBuildConfig(
            text=(tiny_text,), tokenizer=tiny_tokenizer, out=tmp_path / "all", valid_fraction=0.0
        )
    )
    with pytest.raises(DataError, match="--valid-fraction"):
        run(EvalConfig(source=tiny_checkpoint.path, data=tmp_path / "all"))


def test_shards_of_another_tokenizer_are_refused(
    tiny_checkpoint: Checkpoint, tmp_path: Path, tiny_text: Path
) -> None:
    from edgetiny.tokenizer.train import run as train_tokenizer

    other = tmp_path / "other"
    train_tokenizer(TokenizerTrainConfig(text=(tiny_text,), out=other, vocab_size=400))
    build(DataBuildConfig(text=(tiny_text,), tokenizer=other, out=tmp_path / "shards"))
    with pytest.raises(DataError, match="another tokenizer"):
        run(EvalConfig(source=tiny_checkpoint.path, data=tmp_path / "shards"))


def test_ids_beyond_the_vocabulary_are_refused(
    make_checkpoint: Callable[..., Checkpoint], shards: Shards
) -> None:
    with pytest.raises(DataError, match="vocabulary of 97"):
        run(EvalConfig(source=make_checkpoint().path, data=shards.path))


def test_a_missing_source_is_refused(tmp_path: Path, shards: Shards) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        run(EvalConfig(source=tmp_path / "nothing", data=shards.path))


def test_text_needs_a_tokenizer(
    make_checkpoint: Callable[..., Checkpoint], tiny_text: Path
) -> None:
    with pytest.raises(DataError):
        run(EvalConfig(source=make_checkpoint().path, text=(tiny_text,)))


def test_the_graph_runtime_scores_the_same(tiny_checkpoint: Checkpoint, shards: Shards) -> None:
    source, data = tiny_checkpoint.path, shards.path
    eager, graph = (
        run(EvalConfig(source=source, data=data, tokens=300, threads=1, runtime=name))
        for name in ("eager", "graph")
    )
    assert graph.total.tokens == eager.total.tokens
    assert graph.total.nats == pytest.approx(eager.total.nats, rel=1e-5)
    with pytest.raises(ConfigError, match="runs artefacts"):
        run(EvalConfig(source=source, data=data, runtime="onnx"))
