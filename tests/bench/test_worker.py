import json
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest

from edgetiny.bench.process import run_worker
from edgetiny.bench.protocol import Protocol
from edgetiny.bench.subject import activations_of, folder_subjects
from edgetiny.bench.worker import drop_from_page_cache, measure_request
from edgetiny.errors import CheckpointError

PROTOCOL = Protocol(batch=2, prompt_tokens=2, new_tokens=6, repeats=2)


def request_for(checkpoint, runtime="eager", precision="fp32"):
    [subject] = folder_subjects(checkpoint.path, (precision,), (runtime,), "cpu")
    return {"subject": subject.request(), "protocol": asdict(PROTOCOL), "threads": 1}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graph_runtime_compiles_before_the_clock_starts(make_checkpoint, precision):
    """In a process of its own: what torch's compiler warns of is not ours."""
    request = request_for(make_checkpoint(), "graph", precision)
    events = []
    measured = run_worker(request, events.append)
    engine = measured["engine"]
    assert (engine["name"], engine["precision"]) == ("graph", precision)
    assert engine["kv_dtype"] == activations_of(precision, "graph")
    assert measured["prepare_ms"] > 0
    assert measured["peak_device_bytes"] is None
    assert all(run["is_finite"] for run in measured["timings"]["runs"])
    phases = [event["phase"] for event in events if event["event"] == "progress"]
    assert phases[:2] == ["preparing", "warm-up 1"]


def test_a_design_runs_at_int8_without_an_export(make_checkpoint):
    request = request_for(make_checkpoint())
    request["subject"] |= {"kind": "design", "path": None, "precision": "int8"}
    engine = measure_request(request, lambda event: None)["engine"]
    assert engine | {"version": ""} == {
        "name": "eager",
        "version": "",
        "device": "cpu",
        "threads": 1,
        "precision": "int8",
        "kv_dtype": activations_of("int8", "eager"),
    }


def test_a_request_is_json_and_so_is_the_answer(make_checkpoint):
    events = []
    request = json.loads(json.dumps(request_for(make_checkpoint())))
    measured = json.loads(json.dumps(measure_request(request, events.append)))
    assert len(measured["timings"]["runs"]) == PROTOCOL.repeats
    assert measured["load_ms"] > 0
    assert measured["engine"] | {"version": ""} == {
        "name": "eager",
        "version": "",
        "device": "cpu",
        "threads": 1,
        "precision": "fp32",
        "kv_dtype": "fp32",
    }
    assert {"python", "torch", "numpy"} <= measured["versions"].keys()
    assert events[0] == {"event": "loaded"}
    assert {event["event"] for event in events[1:]} == {"progress"}


def test_random_weights_are_made_and_not_loaded(make_checkpoint):
    request = request_for(make_checkpoint())
    request["subject"] |= {"kind": "design", "path": None}
    measured = measure_request(request, lambda event: None)
    assert measured["load_ms"] is None
    assert not measured["load_is_cold"]


def test_dropping_the_cache_leaves_the_files_alone(make_checkpoint):
    path = make_checkpoint().path
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert drop_from_page_cache(path) == sys.platform.startswith("linux")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_all_files_of_an_artefact_are_dropped(make_checkpoint, make_artefact):
    artefact = make_artefact(make_checkpoint(vocab_size=96), batch=(1, 3))
    assert (artefact / "batch3").is_dir()
    before = pages_in_memory(artefact / "batch3/model.onnx.data")
    if before is None:
        pytest.skip("fincore is not here")
    assert drop_from_page_cache(artefact)
    assert pages_in_memory(artefact / "batch3/model.onnx.data") == 0


def pages_in_memory(file):
    """Return how many pages of a file the kernel holds; None where nobody says."""
    if shutil.which("fincore") is None:
        return None
    command = ["fincore", "--noheadings", "--output", "PAGES", str(file)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_a_damaged_checkpoint_is_the_users_error(make_checkpoint):
    checkpoint = make_checkpoint()
    request = request_for(checkpoint)
    weights = checkpoint.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        measure_request(request, lambda event: None)
