import json

import pytest

from edgetiny.checkpoint import Checkpoint
from edgetiny.cli import main
from edgetiny.config.data import DataBuildConfig
from edgetiny.config.run import EvalConfig
from edgetiny.data.build import run as build
from edgetiny.evaluate.stage import run as evaluate
from edgetiny.files import refuse_existing

FLAGS = ["--params", "60k", "--tokens", "1k", "--max-pehf", "0.9", "--context", "16", "--quiet"]
SMALL = ["--train-batch-size", "2", "--sequence-length", "16", "--ffn-multiple", "16"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory, tiny_text, tiny_tokenizer):
    out = tmp_path_factory.mktemp("shards") / "shards"
    build(DataBuildConfig(text=(tiny_text,), tokenizer=tiny_tokenizer, out=out, processes=1))
    return out


def sweep(shards, out, *more):
    return main(
        ["design", "--sweep", "2", "--data", str(shards), "--out", str(out), *FLAGS, *SMALL, *more]
    )


@pytest.mark.slow
def test_a_sweep_trains_measures_and_goes_on_where_it_was(shards, tmp_path, capsys):
    out = tmp_path / "sweep"
    assert sweep(shards, out, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((out / "sweep.json").read_text())
    first, second = document["rows"]
    for row in (first, second):
        trained = Checkpoint.open(out / row["shape"] / "trained").lineage["settings"]
        assert trained["precision"] == document["settings"]["train_precision"] != "auto"
    assert first["depth"] > second["depth"]
    for row in (first, second):
        assert row["tokens"] == 992
        assert 0 < row["bits_per_byte"] < 20
        assert row["tok_s"] > 0
        assert isinstance(row["doubts"], list)
    assert "<svg" in (out / "sweep.html").read_text()
    # As if stopped after the first shape: its row stays, the second's training is not repeated.
    document["rows"] = [first | {"bits_per_byte": 1.0}]
    (out / "sweep.json").write_text(json.dumps(document))
    assert sweep(shards, out, "--resume", "--json") == 0
    kept, again = json.loads(capsys.readouterr().out)["rows"]
    assert kept["bits_per_byte"] == 1.0
    assert again["bits_per_byte"] == second["bits_per_byte"]
    assert sweep(shards, out, "--resume", "--learning-rate", "0.1") == 2
    assert "learning_rate" in capsys.readouterr().err
    document["settings"]["data_sha256"] = "of other text"
    (out / "sweep.json").write_text(json.dumps(document))
    assert sweep(shards, out, "--resume") == 2
    assert "data_sha256" in capsys.readouterr().err
    # What a sweep wrote, --overwrite may replace; it is refused later than that here.
    assert sweep(shards, out, "--overwrite", "--kv", "fp16") == 2
    assert "--kv may be" in capsys.readouterr().err
    refuse_existing(out, overwrite=True)


@pytest.mark.slow
def test_shapes_are_scored_at_the_length_they_were_trained_at(shards, tmp_path, capsys):
    out = tmp_path / "sweep"
    assert sweep(shards, out, "--sequence-length", "520", "--json") == 0
    for row in json.loads(capsys.readouterr().out)["rows"]:
        source = out / row["shape"] / "trained"
        bits = {
            length: evaluate(
                EvalConfig(source=source, data=shards, context=length)
            ).total.bits_per_byte
            for length in (512, 520)
        }
        assert row["bits_per_byte"] == bits[520] != bits[512]


def test_an_existing_folder_is_not_replaced(shards, tmp_path, capsys):
    (tmp_path / "precious").write_text("mine")
    assert sweep(shards, tmp_path) == 2
    assert (tmp_path / "precious").read_text() == "mine"
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sweep", "3"], "--sweep needs --params"),
        (["--sweep", "3", "--params", "1M"], "--sweep needs --data"),
        (["--sweep", "1", "--params", "1M"], "--sweep"),
        (["--params", "1M", "--vocab", "512", "--tokens", "1M"], "--tokens is for --sweep"),
        (["--params", "1M", "--vocab", "512", "--resume"], "--resume is for --sweep"),
    ],
)
def test_settings_that_do_nothing_are_refused(flags, message, capsys):
    assert main(["design", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokens", "many"], "--tokens many is no size"),
        (["--vocab", "99"], "--vocab 99 differs from the 512"),
        (["--hidden-size", "64"], "--hidden-size does nothing with --sweep"),
        (["--precision", "int8", "--precision", "fp16"], "one --precision"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--context", "2"], "--context 2"),
        (["--kv", "fp16"], "--kv may be fp32 or int8"),
    ],
)
def test_a_sweep_that_cannot_be_says_why(flags, message, shards, tmp_path, capsys):
    assert sweep(shards, tmp_path / "sweep", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
