import json
import shutil

import numpy as np
import pytest

from edgetiny.errors import ArtefactError, ConfigError
from edgetiny.files import sha256_file
from edgetiny.runtimes import EagerRuntime, open_runtime

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", params=["portable", "edgetiny"])
def folder(request, tiny_checkpoint, tmp_path_factory):
    from edgetiny.config.export import ExportConfig
    from edgetiny.export.stage import run

    out = tmp_path_factory.mktemp("artefact") / "tiny-fp32"
    run(ExportConfig(source=tiny_checkpoint.path, out=out, precision="fp32", layout=request.param))
    return out


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def runtime(folder):
    return open_runtime(folder, threads=1)


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 512, (3, 12))


def test_every_answer_is_the_checkpoint_s(runtime, tiny_checkpoint, tokens):
    eager = EagerRuntime.load(tiny_checkpoint, threads=1)
    lengths = np.array([12, 3, 7])
    both = (runtime, eager)
    np.testing.assert_allclose(*(each.prefill(tokens, lengths) for each in both), atol=1e-4)
    for width in (1, 1, 4, 1):
        new = tokens[:, :width]
        np.testing.assert_allclose(*(each.step(new) for each in both), atol=1e-4)
    for each in both:
        each.rewind(12)
    np.testing.assert_allclose(*(each.step(tokens[:, :1]) for each in both), atol=1e-4)
    np.testing.assert_allclose(*(each.score(tokens, lengths) for each in both), atol=1e-4)


def test_unequal_prompts_give_the_ids_of_each_alone(runtime, tokens):
    lengths = np.array([12, 1, 7])
    batch = greedy(runtime, tokens, lengths)
    for row in range(3):
        alone = greedy(runtime, tokens[row : row + 1, : lengths[row]], lengths[row : row + 1])
        assert batch[row].tolist() == alone[0].tolist()


def greedy(runtime, tokens, lengths):
    ids = [runtime.prefill(tokens, lengths).argmax(-1)]
    for _ in range(20):
        ids.append(runtime.step(ids[-1][:, None])[:, 0].argmax(-1))
    return np.stack(ids, axis=1)


def test_greedy_steps_are_the_likeliest_of_the_steps(runtime, tokens):
    ids = runtime.prefill(tokens, np.array([12, 1, 7])).argmax(-1)[:, None]
    expected = runtime.step(ids).argmax(-1)
    runtime.rewind(12)
    runtime.prefill(tokens, np.array([12, 1, 7]))
    given = runtime.greedy_step(ids)
    np.testing.assert_array_equal(given, expected)
    kept = given.copy()
    following = runtime.greedy_step(given)
    # What was handed out is the caller's: later steps leave it alone.
    np.testing.assert_array_equal(given, kept)
    assert following.shape == (3, 1)
    with pytest.raises(ConfigError, match="one token a sequence"):
        runtime.greedy_step(tokens[:, :2])
    with pytest.raises(ConfigError, match="outside the vocabulary"):
        runtime.greedy_step(np.full((3, 1), 512))


def test_logits_that_were_handed_out_are_left_alone_by_later_steps(runtime, tokens):
    runtime.prefill(tokens, np.full(3, 12))
    first = runtime.step(tokens[:, :1])
    kept = first.copy()
    runtime.step(tokens[:, 1:2])
    np.testing.assert_array_equal(first, kept)


def test_a_context_can_be_filled_to_its_last_token(runtime):
    tokens = np.random.default_rng(1).integers(0, 512, (2, 128))
    runtime.prefill(tokens[:, :124], np.full(2, 124))
    for at in range(124, 128):
        last = runtime.step(tokens[:, at : at + 1])[:, 0]
    np.testing.assert_allclose(last, runtime.prefill(tokens, np.full(2, 128)), atol=1e-4)
    with pytest.raises(ConfigError, match="128 are used"):
        runtime.step(tokens[:, :1])


def test_scoring_leaves_the_sequences_in_progress_alone(runtime, tokens):
    runtime.prefill(tokens, np.full(3, 12))
    expected = runtime.step(tokens[:, :1])
    runtime.rewind(12)
    runtime.score(tokens[:2], np.full(2, 12))
    np.testing.assert_array_equal(runtime.step(tokens[:, :1]), expected)


def test_a_second_batch_of_another_size_starts_afresh(runtime, tokens):
    expected = runtime.prefill(tokens[:1], np.array([12]))
    runtime.prefill(tokens, np.full(3, 12))
    runtime.step(tokens[:, :1])
    np.testing.assert_allclose(runtime.prefill(tokens[:1], np.array([12])), expected, atol=1e-6)
    runtime.reset()
    with pytest.raises(ConfigError, match="prefill first"):
        runtime.step(tokens[:1, :1])


def test_logits_in_groups_of_rows_are_the_same(runtime, tokens, monkeypatch):
    lengths = np.array([12, 3, 7])
    whole = runtime.prefill(tokens, lengths), runtime.step(tokens[:, :1])
    monkeypatch.setattr("edgetiny.runtimes.protocol.LOGIT_BYTES", 1)
    parts = runtime.prefill(tokens, lengths), runtime.step(tokens[:, :1])
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-5)
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-5)


def test_the_engine_says_what_it_is(folder):
    runtime = open_runtime(folder, context=16, threads=2)
    assert (runtime.engine.name, runtime.engine.threads) == ("onnxruntime", 2)
    assert (runtime.engine.precision, runtime.engine.kv_dtype) == ("fp32", "fp32")
    assert runtime.capabilities.max_context == 16
    assert runtime.capabilities.scoring == "graph"


def test_settings_that_export_decided_are_refused(folder):
    with pytest.raises(ConfigError, match="context of 128 tokens, not 129"):
        open_runtime(folder, context=129)
    with pytest.raises(ConfigError, match="settled at export"):
        open_runtime(folder, precision="fp32")


def test_damaged_artefacts_are_refused(copy):
    data = copy / "model.onnx.data"
    content = data.read_bytes()
    data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtefactError, match=r"model\.onnx\.data is not the file"):
        open_runtime(copy)
    data.write_bytes(content[:-1])
    with pytest.raises(ArtefactError, match=r"model\.onnx\.data is not the file"):
        open_runtime(copy)
    data.unlink()
    with pytest.raises(ArtefactError, match=r"model\.onnx\.data is missing"):
        open_runtime(copy)


def test_a_graph_that_onnxruntime_cannot_load_is_one_line(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "model.onnx").write_bytes(b"no graph")
    sha256 = sha256_file(copy / "model.onnx")
    manifest["files"]["model.onnx"] = {"sha256": sha256, "bytes": len(b"no graph")}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="cannot load"):
        open_runtime(copy)


def test_a_newer_manifest_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(ArtefactError, match="schema version 99"):
        open_runtime(copy)


@pytest.mark.parametrize("manifest", [{}, {"files": []}, {"files": {}}])
def test_a_manifest_without_files_is_refused(manifest, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 1}))
    with pytest.raises(ArtefactError, match="lists no files"):
        open_runtime(tmp_path)
