import json

import pytest
import torch

from edgetiny.bench.designs import DESIGNS
from edgetiny.bench.protocol import Protocol
from edgetiny.bench.subject import at_batch, check_fits, design_subject, folder_subjects
from edgetiny.cost import parameters, run_memory, step_cost
from edgetiny.errors import ArtefactError, CheckpointError, ConfigError, DeviceError


def find(source, precision=None, runtime=None, device="cpu"):
    precisions = () if precision is None else (precision,)
    runtimes = () if runtime is None else (runtime,)
    [subject] = folder_subjects(source, precisions, runtimes, device)
    return subject


@pytest.fixture
def artefact(make_checkpoint):
    """Return a folder with an artefact's manifest, which is all that is read before loading."""
    path = make_checkpoint("artefact").path
    manifest = {
        "schema_version": 1,
        "precision": "int8",
        "kv_dtype": "fp32",
        "block_size": 32,
        "compute_dtype": "fp32",
        "context": 64,
        "max_batch": 4,
        "files": {
            "model.onnx": {"bytes": 1000, "sha256": "0" * 64},
            "model.onnx.data": {"bytes": 9000, "sha256": "0" * 64},
            "config.json": {"bytes": 1, "sha256": "0" * 64},
        },
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")]
)
def test_a_checkpoint_runs_as_it_is_stored(make_checkpoint, dtype, precision):
    subject = find(make_checkpoint(dtype=dtype).path)
    assert (subject.kind, subject.precision, subject.kv_precision) == (
        "checkpoint",
        precision,
        precision,
    )
    assert subject.size_bytes == subject.n_parameters * dtype.itemsize


def test_precision_can_be_asked_for(make_checkpoint):
    assert find(make_checkpoint().path, precision="bf16").precision == "bf16"


def test_fp16_on_a_cpu_is_refused_with_the_reason(make_checkpoint):
    path = make_checkpoint(dtype=torch.float16).path
    with pytest.raises(ConfigError, match=r"float16.*many times slower.*--precision fp32"):
        find(path)
    assert find(path, precision="fp32").precision == "fp32"


def test_an_artefact_keeps_its_precision(artefact):
    subject = find(artefact)
    assert (subject.kind, subject.precision, subject.kv_precision) == ("artefact", "int8", "fp32")
    assert subject.size_bytes == 10_000
    assert (subject.max_context, subject.max_batch) == (64, 4)
    with pytest.raises(ConfigError, match="--precision does not apply"):
        find(artefact, precision="fp32")


def test_fp16_is_counted_as_it_is_held(artefact):
    manifest = json.loads((artefact / "manifest.json").read_text())
    (artefact / "manifest.json").write_text(json.dumps(manifest | {"precision": "fp16"}))
    subject = find(artefact)
    config = subject.config
    assert (subject.precision, subject.held_precision) == ("fp16", "fp32")
    assert subject.step(1, 8.0) == step_cost(config, "fp32", 1, 8.0)


def test_a_batch_beyond_the_artefact_is_refused(artefact):
    subject = find(artefact)
    check_fits(subject, Protocol(batch=4, prompt_tokens=2, new_tokens=4, repeats=1), None)
    with pytest.raises(ConfigError, match="at most 4 sequences together, not 5"):
        check_fits(subject, Protocol(batch=5, prompt_tokens=2, new_tokens=4, repeats=1), None)


@pytest.fixture
def of_two_plans(artefact):
    """Return an artefact with a plan for one sequence and one for four, weights in each file."""
    plan = {
        "format": "onnx",
        "layout": "edgetiny",
        "precision": "int4",
        "kernel": "weight_only",
        "block_size": 32,
        "kv_dtype": "fp32",
        "compute_dtype": "fp32",
        "batch": 1,
        "max_batch": 1,
        "context": 64,
        "target": "cpu",
        "verified": True,
        "loaders": [],
        "files": ["model.onnx"],
        "nodes": {},
        "facts": {},
    }
    many = {"kernel": "dynamic", "kv_dtype": "int8", "batch": 4, "max_batch": 4}
    manifest = json.loads((artefact / "manifest.json").read_text())
    models = [plan, plan | many | {"files": ["model.onnx.data"]}]
    manifest |= {"schema_version": 2, "models": models}
    (artefact / "manifest.json").write_text(json.dumps(manifest))
    return artefact


def test_each_batch_is_described_by_its_own_plan(of_two_plans):
    subject = find(of_two_plans)
    one, two, four = (at_batch(subject, batch) for batch in (1, 2, 4))
    assert (one.held_precision, one.kv_precision, one.size_bytes) == ("int4", "fp32", 1000)
    assert (four.held_precision, four.kv_precision, four.size_bytes) == ("int8", "int8", 9000)
    assert two == four
    assert one.max_batch == four.max_batch == 4
    with pytest.raises(ConfigError, match="give --batch 4 or less"):
        check_fits(
            at_batch(subject, 5), Protocol(batch=5, prompt_tokens=2, new_tokens=4, repeats=1), None
        )


def test_an_artefact_of_gguf_alone_is_refused(of_two_plans):
    manifest = json.loads((of_two_plans / "manifest.json").read_text())
    manifest["models"][0]["format"] = "gguf"
    (of_two_plans / "manifest.json").write_text(json.dumps(manifest))
    assert find(of_two_plans).runtime == "onnx"
    manifest["models"][1]["format"] = "gguf"
    (of_two_plans / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"no model that a runtime here runs.*llama.cpp"):
        find(of_two_plans)


def test_a_manifest_without_its_facts_is_refused(artefact):
    manifest = json.loads((artefact / "manifest.json").read_text())
    del manifest["context"]
    (artefact / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="'context'"):
        find(artefact)


def test_a_runtime_that_does_not_run_it_is_refused(artefact, make_checkpoint):
    with pytest.raises(ConfigError, match="eager and graph take the checkpoint"):
        find(artefact, runtime="eager")
    assert find(artefact, runtime="onnx").runtime == "onnx"
    with pytest.raises(DeviceError, match="--device cpu"):
        find(artefact, device="cuda")
    path = make_checkpoint().path
    with pytest.raises(ConfigError, match="export it first"):
        find(path, runtime="onnx")
    with pytest.raises(ConfigError, match="is a shape alone"):
        design_subject(DESIGNS[0], "fp32", "onnx", "cpu")


def test_int8_needs_an_export_or_the_graph_runtime(make_checkpoint):
    path = make_checkpoint().path
    with pytest.raises(ConfigError, match=r"measure the artefact, or give --runtime graph"):
        find(path, precision="int8")
    subject = find(path, precision="int8", runtime="graph")
    assert (subject.held_precision, subject.kv_precision) == ("int8", "bf16")


@pytest.mark.parametrize("runtime", ["eager", "graph"])
def test_int8_is_a_byte_a_weight_with_a_scale_per_row(runtime):
    config = DESIGNS[0].config
    subject = design_subject(DESIGNS[0], "int8", runtime, "cpu")
    matrices = parameters(config).total - parameters(config).norms
    table = config.vocab_size * config.hidden_size
    # The eager runtime gathers rows from an fp32 table.
    expected = matrices + (3 * table if runtime == "eager" else 0)
    assert subject.size_bytes == pytest.approx(expected, rel=0.01)
    assert subject.step(1, 2.0).weight_bytes == pytest.approx(matrices - table, rel=0.01)


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        find(tmp_path / "nowhere")


def test_a_context_beyond_the_model_is_refused(make_checkpoint):
    subject = find(make_checkpoint().path)
    fitting = Protocol(batch=1, prompt_tokens=2, new_tokens=62, repeats=1)
    check_fits(subject, fitting, None)
    with pytest.raises(ConfigError, match=r"holds 64 tokens, 2 \+ 63 .*--new-tokens 62 or less"):
        check_fits(subject, Protocol(batch=1, prompt_tokens=2, new_tokens=63, repeats=1), None)
    with pytest.raises(ConfigError, match=r"holds 64 tokens, 12 \+ 53 .*--new-tokens 52 or less"):
        deep = Protocol(batch=1, prompt_tokens=2, new_tokens=53, repeats=1, depth=10)
        check_fits(subject, deep, None)
    with pytest.raises(ConfigError, match="give a smaller --context"):
        full = Protocol(batch=1, prompt_tokens=2, new_tokens=2, repeats=1, depth=61)
        check_fits(subject, full, None)
    with pytest.raises(ConfigError, match="give a smaller --prompt-tokens"):
        check_fits(subject, Protocol(batch=1, prompt_tokens=63, new_tokens=2, repeats=1), None)


def test_memory_is_predicted_before_loading():
    subject = design_subject(DESIGNS[0], "fp32", "eager", "cpu")
    protocol = Protocol(batch=20, prompt_tokens=2, new_tokens=510, repeats=1)
    need = run_memory(subject.config, "fp32", 20, 512).total
    check_fits(subject, protocol, need)
    with pytest.raises(DeviceError, match=r"random-952m at batch 20 needs 6\.\d\d GB"):
        check_fits(subject, protocol, need - 1)
