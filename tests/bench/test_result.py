import json
from dataclasses import asdict
from pathlib import Path

import jsonschema
import pytest
import torch

from edgetiny.bench.protocol import Protocol
from edgetiny.bench.result import BenchResult, Environment, make_row, read_result
from edgetiny.bench.roofline import Peaks, Reading, bound_of
from edgetiny.bench.subject import folder_subjects
from edgetiny.bench.worker import measure_request
from edgetiny.console import show
from edgetiny.cost import mean_context
from edgetiny.errors import DataError
from edgetiny.measure import Bandwidth, GemmPeak, median

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/schemas/result.schema.json").read_text())
GOLDEN = ROOT / "tests/golden/bench_result.json"

LLAMA_BENCH = {
    *("model_filename", "model_type", "model_size", "model_n_params"),
    *("n_batch", "n_threads", "n_prompt", "n_gen", "n_depth", "test_time"),
    *("avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts"),
}

BANDWIDTH = Bandwidth(50e9, 48e9, "sum float32", 4, 2**28, 32 * 2**20, 1)
READING = Reading(BANDWIDTH, GemmPeak(200e9, 190e9, "fp32", 1024, 3, 1))
PEAKS = Peaks(READING, READING)
PROTOCOL = Protocol(batch=3, prompt_tokens=2, new_tokens=9, repeats=2)
ENVIRONMENT = Environment(
    cpu="a processor",
    gpu=None,
    threads=1,
    commit="0.1.0",
    edgetiny_version="0.1.0",
    test_time="2025-01-31T12:00:00Z",
)


def row_of(checkpoint, *, protocol=PROTOCOL, bytes_per_token=None, energy_j=None):
    """Measure a checkpoint in this process, against a machine whose peaks are given."""
    [subject] = folder_subjects(checkpoint.path, (), (), "cpu")
    request = {"subject": subject.request(), "protocol": asdict(protocol), "threads": 1}
    measured = measure_request(request, lambda event: None)
    measured["temperature_celsius"] = {"before": None, "after": 40.0}
    measured["frequency_hz"] = {"before": None, "after": 3e9}
    for run in measured["timings"]["runs"]:
        run["energy_j"] = energy_j
    runs = measured["timings"]["runs"]
    step_s = 1e-9 / median([len(run["step_ns"]) / sum(run["step_ns"]) for run in runs])
    context = mean_context(protocol.depth + protocol.prompt_tokens, protocol.new_tokens)
    step = subject.step(protocol.batch, context)
    bound = bound_of(step, step_s, PEAKS)
    return make_row(subject, protocol, ENVIRONMENT, measured, bound, bytes_per_token)


def test_a_row_follows_the_schema_and_has_llama_benchs_fields(make_checkpoint):
    rows = [
        row_of(make_checkpoint()),
        row_of(make_checkpoint("text"), bytes_per_token=4.0),
    ]
    document = json.loads(json.dumps(BenchResult(rows, None).document()))
    jsonschema.validate(document, SCHEMA)
    assert rows[0].keys() >= LLAMA_BENCH
    assert "bytes_per_token" not in rows[0]
    assert rows[1]["text_bytes_per_s_summed"] == 4 * rows[1]["tok_per_s_summed"]["median"]


def test_an_artefact_of_four_bits_follows_the_schema_too(make_checkpoint):
    # What `_of_plan` says of such a plan (test_subject.py).
    row = row_of(make_checkpoint()) | {"precision": "int4", "held_precision": "int4"}
    jsonschema.validate(BenchResult([row], None).document(), SCHEMA)


@pytest.mark.parametrize("broken", [{"valid": "yes"}, {"mystery": 1}, {"n_gen": 1}])
def test_the_schema_refuses_what_is_no_row(make_checkpoint, broken):
    rows = [row_of(make_checkpoint()) | broken]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(BenchResult(rows, None).document(), SCHEMA)


def test_the_two_conventions_differ_by_the_batch(make_checkpoint):
    row = row_of(make_checkpoint())
    for prefix in ("", "decode_"):
        alone, summed = row[f"{prefix}tok_per_s_per_sequence"], row[f"{prefix}tok_per_s_summed"]
        assert summed["median"] == pytest.approx(3 * alone["median"])
    assert row["tok_per_s_summed"]["median"] == pytest.approx(median(row["samples_ts"]))
    for rate, sample in zip(row["samples_ts"], row["samples_ns"], strict=True):
        assert rate == pytest.approx(1e9 * 3 * 9 / sample)
    assert row["step_ms"]["p50"] <= row["step_ms"]["p90"] <= row["step_ms"]["p99"]


@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_mbu_agrees_with_bytes_counted_from_the_file(make_checkpoint, n_kv_heads):
    """Count what a step reads from the file and the cache's shape, without the cost model."""
    checkpoint = make_checkpoint(num_key_value_heads=n_kv_heads, tie_word_embeddings=False)
    row = row_of(checkpoint)
    file = checkpoint.path / "model.safetensors"
    with file.open("rb") as stream:
        header_bytes = 8 + int.from_bytes(stream.read(8), "little")
    table = checkpoint.tensor("model.embed_tokens.weight")
    read = file.stat().st_size - header_bytes - table.nbytes + 3 * table[0].nbytes
    # Eight steps: the first looks at the two tokens of the prompt and the one it is fed.
    contexts = range(3, 3 + 8)
    layers, head_dim = checkpoint.config.num_hidden_layers, checkpoint.config.head_dim
    per_token = 2 * layers * n_kv_heads * head_dim * torch.float32.itemsize
    read += 3 * per_token * sum(contexts) / len(contexts)
    steps_per_s = row["decode_tok_per_s_per_sequence"]["median"]
    assert row["roofline"]["mbu"] == pytest.approx(read * steps_per_s / 50e9, rel=0.05)


def test_a_row_that_cannot_be_believed_says_so(make_checkpoint):
    def spoil(tensors):
        tensors["model.norm.weight"][0] = torch.inf

    row = row_of(make_checkpoint(edit=spoil))
    assert not row["valid"]
    assert "the logits are not finite" in row["doubts"]


def test_the_summary_prints_a_column_per_row(make_checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    checkpoint = make_checkpoint()
    one = Protocol(batch=1, prompt_tokens=2, new_tokens=9, repeats=1)
    rows = [row_of(checkpoint), row_of(checkpoint, protocol=one)]
    show(BenchResult(rows, Path("result.json")).summary(), as_json=False)
    printed = capsys.readouterr().out
    for words in ("batch 3", "batch 1", "tok/s per sequence", "summed", "in cache", "result.json"):
        assert words in printed


def test_joules_are_there_where_they_can_be_read(make_checkpoint):
    assert "joules_per_token" not in row_of(make_checkpoint())
    row = row_of(make_checkpoint("other"), energy_j=54.0)
    assert row["joules_per_token"]["median"] == 54.0 / (3 * 9)
    jsonschema.validate(BenchResult([row], None).document(), SCHEMA)


def test_a_sustained_part_has_a_trend(make_checkpoint):
    protocol = Protocol(batch=1, prompt_tokens=2, new_tokens=4, repeats=1, sustained_minutes=0.003)
    row = row_of(make_checkpoint(), protocol=protocol)
    jsonschema.validate(json.loads(json.dumps(BenchResult([row], None).document())), SCHEMA)
    sustained = row["sustained"]
    assert sustained["minutes"] == pytest.approx(0.003, rel=0.5)
    assert sustained["runs"] == len(sustained["samples"]) > 0
    times = [sample["at_s"] for sample in sustained["samples"]]
    assert times == sorted(times)
    first, last = (sustained[f"{end}_tok_per_s_summed"] for end in ("first", "last"))
    assert sustained["change"] == pytest.approx(last / first - 1)


def test_the_golden_result_loads():
    jsonschema.validate(json.loads(GOLDEN.read_text()), SCHEMA)
    rows = read_result(GOLDEN)
    assert {row["n_batch"] for row in rows} == {1, 20}
    for row in rows:
        assert (row["n_prompt"], row["n_gen"]) == (2, 510)
        assert len(row["samples_ns"]) == row["protocol"]["repeats"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 2, "rows": []}', "upgrade edgetiny"),
        ('{"schema_version": 1}', "has no rows"),
        ('{"schema_version": 1, "rows": [3]}', "has no rows"),
        ('{"rows": []}', "no schema_version"),
        ("[]", "not a JSON object"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, content, message):
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_result(path)
