import json

import pytest

from edgetiny.config.export import ExportConfig
from edgetiny.device import Device, to_toml
from edgetiny.errors import CheckFailed
from edgetiny.export.dry_run import DryRunResult
from edgetiny.export.stage import run

SHAPE = {
    "vocab_size": 3000,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "num_hidden_layers": 3,
}


def tame(tensors):
    for tensor in tensors.values():
        if tensor.ndim == 2:
            tensor /= tensor.std() * tensor.shape[1] ** 0.5


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("format", "precision"),
    [("gguf", "fp32"), ("gguf", "int8"), ("onnx", "fp16"), ("onnx", "int8"), ("onnx", "int4")],
)
def test_the_size_is_within_three_percent(format, precision, tied, make_checkpoint, tmp_path):
    checkpoint = make_checkpoint(edit=tame, tie_word_embeddings=tied, **SHAPE)
    settings = {"source": checkpoint.path, "format": (format,), "precision": precision}
    # Four bits for a batch have the larger graph.
    settings["batch"] = (2,) if precision == "int4" else (1,)
    out = tmp_path / "out"
    forecast = run(ExportConfig(dry_run=True, out=out, **settings))
    assert isinstance(forecast, DryRunResult)
    assert not out.exists()
    try:
        artefact = run(ExportConfig(out=out, **settings)).artefact
    except CheckFailed as error:
        pytest.fail(str(error))
    [row] = forecast.summary()["plans"]
    files = artefact.manifest["files"]
    real = sum(files[name]["bytes"] for model in artefact.models for name in model.files)
    assert row["size_bytes"] == pytest.approx(real, rel=0.03)


def test_refusals_are_rows_with_their_reason_and_nothing_is_written(tiny_checkpoint, tmp_path):
    config = ExportConfig(
        source=tiny_checkpoint.path, out=tmp_path / "out", format=("gguf",), kv="int8",
        dry_run=True,
    )  # fmt: skip
    summary = run(config).summary()
    json.dumps(summary, allow_nan=False)
    [row] = summary["plans"]
    assert row["state"] == "refused"
    assert "--kv may be fp16" in row["reason"]
    assert list(tmp_path.iterdir()) == []


def test_a_device_gives_the_speed_it_could_reach(tiny_checkpoint, tmp_path):
    device = Device(
        name="slate", source="a test", cpu="none", cores=4, threads=4, ram_bytes=10**9,
        llc_bytes=None, read_bandwidth_bytes_per_s=1e9, gemm_flops_per_s={"fp32": 1e12},
    )  # fmt: skip
    path = tmp_path / "slate.toml"
    path.write_text(to_toml(device))
    config = ExportConfig(
        source=tiny_checkpoint.path, format=("gguf",), precision="fp32", dry_run=True, device=path
    )
    [row] = run(config).summary()["plans"]
    # Every weight is read once a token, and nothing is faster than memory.
    weights = sum(tensor.numel() for tensor in tiny_checkpoint.state_dict().values()) * 4
    assert 0 < row["tokens_per_s"] < 1e9 / weights
