import json
import shutil
from dataclasses import asdict

import pytest
from safetensors.torch import save_file

from edgetiny.config.data import DataBuildConfig
from edgetiny.config.export import ExportConfig, VerifyConfig
from edgetiny.config.tokenizer import TokenizerTrainConfig
from edgetiny.console import Reporter
from edgetiny.data.build import run as build
from edgetiny.errors import ArtefactError, CheckFailed, CheckpointError, ConfigError, DataError
from edgetiny.export.stage import run as export
from edgetiny.export.verify import run
from edgetiny.tokenizer.train import run as train

pytest.importorskip("onnxruntime")


@pytest.fixture
def like_tiny(tiny_config, make_checkpoint):
    """Return a function that makes a checkpoint of the artefact's shape; keywords change it."""

    def make(**settings):
        return make_checkpoint("other", **asdict(tiny_config) | settings)

    return make


def test_an_artefact_passes_against_its_checkpoint_and_stays_untouched(
    tiny_checkpoint, tiny_artefact
):
    before = {path.name: path.read_bytes() for path in tiny_artefact.iterdir()}
    verification = run(VerifyConfig(artefact=tiny_artefact, against=tiny_checkpoint.path))
    assert verification.passed
    json.dumps(verification.summary(), allow_nan=False)
    assert before == {path.name: path.read_bytes() for path in tiny_artefact.iterdir()}
    written = json.loads(before["verification.json"])["models"][0]["checks"]
    now_checks = verification.summary()["checks of model.onnx"]
    for then, now in zip(written, now_checks, strict=True):
        # Sums differ in their last bits from load to load, with how threads share the work.
        assert now == then | {"measured": pytest.approx(then["measured"], rel=0.5, abs=1e-3)}


def test_another_checkpoint_of_the_shape_fails_the_check(tiny_artefact, like_tiny):
    other = like_tiny()
    with pytest.raises(CheckFailed, match="relative logit error is") as failure:
        run(VerifyConfig(artefact=tiny_artefact, against=other.path))
    assert failure.value.exit_code == 1


def test_a_slightly_different_checkpoint_fails_the_check(tiny_artefact, tiny_checkpoint, tmp_path):
    tensors = tiny_checkpoint.state_dict()
    name = "model.layers.1.mlp.down_proj.weight"
    other = shutil.copytree(tiny_checkpoint.path, tmp_path / "other")
    save_file({**tensors, name: tensors[name] * 1.5}, other / "model.safetensors")
    with pytest.raises(CheckFailed):
        run(VerifyConfig(artefact=tiny_artefact, against=other))


def test_an_artefact_with_fewer_kv_heads_is_compared_with_the_averaged_model(
    tiny_checkpoint, make_artefact
):
    folder = make_artefact(tiny_checkpoint, "grouped", gqa_groups=1)
    assert run(VerifyConfig(artefact=folder, against=tiny_checkpoint.path)).passed


def test_what_was_never_run_does_not_pass(tiny_checkpoint, tmp_path):
    settings = {"target": "cuda", "precision": "fp16", "allow_unverified": True}
    out = tmp_path / "out-unverified"
    result = export(ExportConfig(source=tiny_checkpoint.path, out=out, **settings))
    assert not result.verification.passed
    assert not result.artefact.verification["passed"]
    with pytest.raises(ConfigError, match="holds nothing that can run here"):
        run(VerifyConfig(artefact=out, against=tiny_checkpoint.path))


def test_the_reference_keeps_no_more_than_the_artefacts_context(make_checkpoint, tmp_path):
    """A cache for all of these positions would be 16 TB."""
    checkpoint = make_checkpoint(max_position_embeddings=2**36)
    out = tmp_path / "out"
    assert export(ExportConfig(source=checkpoint.path, out=out, context=32)).verification.passed


def test_a_checkpoint_of_another_shape_is_refused(tiny_artefact, like_tiny):
    other = like_tiny(num_hidden_layers=3)
    with pytest.raises(ArtefactError, match="another shape"):
        run(VerifyConfig(artefact=tiny_artefact, against=other.path))


def test_an_artefact_that_ends_texts_at_other_ids_is_verified_all_the_same(
    tiny_artefact, tiny_checkpoint, tmp_path, capsys
):
    other = shutil.copytree(tiny_checkpoint.path, tmp_path / "other")
    ends = [*tiny_checkpoint.config.eos_token_ids, 7]
    (other / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    config = VerifyConfig(artefact=tiny_artefact, against=other)
    assert run(config, Reporter()).passed
    assert f"and the checkpoint at {tuple(ends)}" in capsys.readouterr().err


def test_missing_folders_are_refused(tiny_artefact, tiny_checkpoint, tmp_path):
    with pytest.raises(ArtefactError, match="not a folder"):
        run(VerifyConfig(artefact=tmp_path / "none", against=tiny_checkpoint.path))
    with pytest.raises(ArtefactError, match=r"manifest\.json does not exist"):
        run(VerifyConfig(artefact=tiny_checkpoint.path, against=tiny_checkpoint.path))
    with pytest.raises(CheckpointError):
        run(VerifyConfig(artefact=tiny_artefact, against=tmp_path / "none"))


def test_another_tokenizer_fails_the_check(tiny_checkpoint, tiny_artefact, tmp_path):
    other = shutil.copytree(tiny_checkpoint.path, tmp_path / "other")
    (other / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckFailed, match=r"tokenizer_config\.json"):
        run(VerifyConfig(artefact=tiny_artefact, against=other))


def test_shards_of_another_tokenizer_are_refused(
    tiny_checkpoint, tiny_artefact, tiny_text, tmp_path
):
    other, shards = tmp_path / "tokenizer", tmp_path / "shards"
    train(TokenizerTrainConfig(text=(tiny_text,), out=other, vocab_size=400))
    build(DataBuildConfig(text=(tiny_text,), tokenizer=other, out=shards, processes=1))
    with pytest.raises(DataError, match="another tokenizer"):
        run(VerifyConfig(artefact=tiny_artefact, against=tiny_checkpoint.path, data=shards))
