"""Fewer key/value heads on the way out, by text or without, and verified again afterwards."""

import json

import pytest

from edgetiny.artefact import Artefact
from edgetiny.config.data import DataBuildConfig
from edgetiny.config.export import ExportConfig, VerifyConfig
from edgetiny.config.model import GqaConfig
from edgetiny.console import Reporter
from edgetiny.data.build import run as build
from edgetiny.errors import ArtefactError, ConfigError
from edgetiny.export.stage import run
from edgetiny.export.verify import run as verify
from edgetiny.gqa import run as gqa

pytest.importorskip("onnxruntime")

BEST = {"gqa_groups": 1, "gqa_pool": "aligned", "gqa_grouping": "similarity"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory, tiny_text, tiny_tokenizer):
    out = tmp_path_factory.mktemp("shards") / "shards"
    build(DataBuildConfig(text=(tiny_text,), tokenizer=tiny_tokenizer, out=out, processes=1))
    return out


@pytest.fixture
def config(tiny_checkpoint, tmp_path):
    def make(**settings):
        return ExportConfig(
            source=tiny_checkpoint.path, out=tmp_path / "out", precision="fp32", **settings
        )

    return make


def test_merging_by_text_gives_the_weights_of_the_gqa_command(
    config, tiny_checkpoint, shards, tmp_path, capsys
):
    result = run(config(data=shards, **BEST), Reporter())
    said = capsys.readouterr().err
    assert "2 key/value heads become 1: similarity, aligned" in said
    for row in result.summary()["fewer_kv_heads"]:
        assert row["bits_per_byte_after"] != row["bits_per_byte_before"]
        assert f"bits per byte of {row['text']}: {row['bits_per_byte_before']:.4f} before" in said
    merged = gqa(
        GqaConfig(
            source=tiny_checkpoint.path, groups=1, pool="aligned", grouping="similarity",
            data=shards, eval_tokens=2, out=tmp_path / "merged",
        )
    )  # fmt: skip
    whole = run(ExportConfig(source=merged.path, out=tmp_path / "whole", precision="fp32"))
    for name in ("model.onnx", "model.onnx.data"):
        one, other = result.artefact.path / name, whole.artefact.path / name
        assert one.read_bytes() == other.read_bytes()


def test_it_is_verified_with_the_text_of_its_export_only(
    config, tiny_checkpoint, tiny_text, tmp_path
):
    artefact = run(config(calibration_text=tiny_text, **BEST)).artefact
    manifest = json.loads((artefact.path / "manifest.json").read_text())
    assert (manifest["gqa_pool"], manifest["gqa_grouping"]) == ("aligned", "similarity")
    again = {"artefact": artefact.path, "against": tiny_checkpoint.path}
    assert verify(VerifyConfig(calibration_text=tiny_text, **again)).passed
    with pytest.raises(ConfigError, match="looks at text: give --data"):
        verify(VerifyConfig(**again))
    other = tmp_path / "other.txt"
    other.write_text(tiny_text.read_text()[1000:])
    with pytest.raises(ArtefactError, match="merged by another text"):
        verify(VerifyConfig(calibration_text=other, **again))


def test_the_bare_flag_averages_neighbours_and_reads_no_text(config, tiny_checkpoint, tiny_text):
    artefact = run(config(gqa_groups=1)).artefact
    manifest = Artefact.open(artefact.path).manifest
    assert (manifest["gqa_pool"], manifest["gqa_grouping"]) == ("mean", "adjacent")
    assert manifest["gqa_text_sha256"] is None
    again = VerifyConfig(
        artefact=artefact.path, against=tiny_checkpoint.path, calibration_text=tiny_text
    )
    with pytest.raises(ConfigError, match="leave it out"):
        verify(again)


def test_what_cannot_be_merged_is_refused(config, tiny_text, tmp_path):
    with pytest.raises(ConfigError, match="give --gqa-groups too"):
        config(gqa_pool="aligned")
    with pytest.raises(ConfigError, match="looks at text: give --data"):
        run(config(**BEST))
    with pytest.raises(ConfigError, match="nothing else here reads them"):
        run(config(gqa_groups=1, calibration_text=tiny_text))
    with pytest.raises(ConfigError, match="nothing else here reads them"):
        run(config(**BEST | {"gqa_groups": 2}, calibration_text=tiny_text))
    assert list(tmp_path.iterdir()) == []
