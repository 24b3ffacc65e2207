import json
import os
from pathlib import Path

import jsonschema
import pytest
import torch

import edgetiny
from edgetiny.bench.result import read_result
from edgetiny.bench.stage import commit, run
from edgetiny.cli import main
from edgetiny.config.export import ExportConfig
from edgetiny.config.run import BenchConfig
from edgetiny.errors import ConfigError, DeviceError
from edgetiny.export.stage import run as export

SCHEMA = Path(__file__).parents[2] / "docs/schemas/result.schema.json"


def bench(source, **settings):
    return run(BenchConfig(source=source, threads=1, **settings))


@pytest.mark.slow
def test_one_process_per_row_and_a_file(make_checkpoint, tmp_path):
    out = tmp_path / "results" / "result.json"
    source = make_checkpoint().path
    result = bench(source, batch=(2, 1), new_tokens=6, repeats=2, out=out)
    assert read_result(out) == result.rows
    jsonschema.validate(json.loads(out.read_text()), json.loads(SCHEMA.read_text()))
    assert [row["n_batch"] for row in result.rows] == [2, 1]
    for row in result.rows:
        assert row["peak_rss_bytes"] > row["rss_before_load_bytes"] > 0
        assert row["roofline"]["read_bytes_per_s"] > 0
    # The reading after one row is the one before the next.
    first, second = (row["roofline"] for row in result.rows)
    assert first["read_bytes_per_s_after"] == second["read_bytes_per_s_before"]


@pytest.mark.slow
def test_the_command_prints_what_the_file_would_hold(make_checkpoint, capsys):
    shape = "--batch 1 --new-tokens 4 --prompt-tokens 3 --context 5 --repeats 1"
    flags = [*shape.split(), "--threads", "1", "--precision", "bf16", "--json", "--quiet"]
    code = main(["bench", str(make_checkpoint().path), *flags])
    printed = json.loads(capsys.readouterr().out)
    assert code == 0
    jsonschema.validate(printed, json.loads(SCHEMA.read_text()))
    [row] = printed["rows"]
    assert (row["n_batch"], row["n_prompt"], row["n_gen"], row["n_threads"]) == (1, 3, 4, 1)
    assert row["n_depth"] == 5
    assert row["roofline"]["context"] == 10.0
    assert (row["precision"], row["kv_dtype"]) == ("bf16", "bf16")


@pytest.mark.slow
def test_an_artefact_runs_in_its_engine(make_checkpoint, tmp_path):
    """MBU agrees with the bytes of the file, less the table's and with the cache's by its shape."""
    pytest.importorskip("onnxruntime")
    sizes = {"hidden_size": 64, "intermediate_size": 172, "head_dim": 16, "num_key_value_heads": 2}
    checkpoint = make_checkpoint(tie_word_embeddings=False, **sizes)
    folder = tmp_path / "artefact"
    export(ExportConfig(source=checkpoint.path, out=folder, precision="int8", context=16))
    [row] = bench(folder, batch=(2,), new_tokens=7, repeats=1).rows
    assert (row["source"], row["runtime"], row["precision"]) == ("artefact", "onnxruntime", "int8")
    assert row["load_ms"] > 0

    file_bytes = (folder / "model.onnx.data").stat().st_size
    table_row = 2 * (32 + 2)  # two blocks of int8 weights with an fp16 scale each
    cache = 2 * 2 * 2 * 16 * 4 * 2 * 5.5  # K and V, layers, heads, width, fp32, batch, mean context
    read = file_bytes - 97 * table_row + 2 * table_row + cache
    roofline = row["roofline"]
    mbu = read / (1e-3 * roofline["measured_step_ms"]) / roofline["read_bytes_per_s"]
    assert roofline["mbu"] == pytest.approx(mbu, rel=0.05)


def test_android_comes_later(capsys):
    assert main(["bench", "--device", "android"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--device android comes in a later release" in line


def test_cuda_is_refused_where_there_is_none():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(DeviceError, match="no CUDA device here"):
        run(BenchConfig(device="cuda"))


def test_an_existing_result_is_kept(make_checkpoint, tmp_path):
    out = tmp_path / "result.json"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="--overwrite"):
        bench(make_checkpoint().path, out=out)
    assert out.read_text() == "mine"


def test_a_folder_without_permission_is_found_before_the_run(make_checkpoint, tmp_path):
    if os.geteuid() == 0:
        out = Path("/proc/result.json")  # root may write everywhere but here
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        out = tmp_path / "locked" / "result.json"
    with pytest.raises(ConfigError, match="cannot write"):
        bench(make_checkpoint().path, new_tokens=6, out=out)


def test_no_room_is_found_before_the_run(make_checkpoint, tmp_path):
    out = tmp_path / "result.json"
    with pytest.raises(DeviceError, match=r"needs .* GB"):
        bench(make_checkpoint().path, batch=(10**9,), new_tokens=6, out=out)
    with pytest.raises(ConfigError, match="holds 64 tokens"):
        bench(make_checkpoint("other").path, out=out)
    assert not out.exists()


def test_the_commit_is_a_revision_or_the_version():
    found = commit()
    is_checkout = (Path(edgetiny.__file__).parents[1] / ".git").exists()
    assert is_checkout or found == edgetiny.__version__
    assert found
