import json
import tomllib
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from edgetiny.config.demo import DeviceConfig
from edgetiny.device import Device, cpu_info, cpu_model, read_device, run, to_toml
from edgetiny.errors import ConfigError, DeviceError

_PHONE = Device(
    name='a "phone" \\ \x7f 手机',
    source="data sheet",
    cpu="big.LITTLE",
    cores=8,
    threads=4,
    ram_bytes=8 * 2**30,
    llc_bytes=None,
    read_bandwidth_bytes_per_s=50e9,
    gemm_flops_per_s={"fp32": 1e11, "int8": 1e12},
)


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _schema() -> dict[str, object]:
    path = Path(__file__).parents[1] / "docs" / "schemas" / "device.schema.json"
    schema: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return schema


@pytest.mark.parametrize("device", [_PHONE, replace(_PHONE, llc_bytes=2**25)])
def test_writing_then_reading_is_the_identity(device: Device, tmp_path: Path) -> None:
    text = to_toml(device)
    jsonschema.validate(tomllib.loads(text), _schema())
    assert read_device(_write(tmp_path / "device.toml", text)) == device


def test_the_documented_example_is_a_device(tmp_path: Path) -> None:
    page = Path(__file__).parents[1] / "docs" / "formats" / "device.md"
    example = page.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    jsonschema.validate(tomllib.loads(example), _schema())
    assert read_device(_write(tmp_path / "device.toml", example)).cores > 0


def test_this_machine_is_measured_and_written(tmp_path: Path) -> None:
    out = tmp_path / "here" / "device.toml"
    result = run(DeviceConfig(out=out, threads=1, seconds=0.02))
    written = read_device(out)
    assert written.threads == 1
    assert written.gemm_flops_per_s.keys() == result.device.gemm_flops_per_s.keys()
    assert written.read_bandwidth_bytes_per_s == round(result.device.read_bandwidth_bytes_per_s)
    json.dumps(result.summary(), allow_nan=False)


def test_an_existing_description_stands(tmp_path: Path) -> None:
    out = _write(tmp_path / "device.toml", "mine")
    with pytest.raises(ConfigError, match="--overwrite"):
        run(DeviceConfig(out=out))
    assert out.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema_version = 1", "schema_version = 2", "upgrade edgetiny"),
        ("schema_version = 1", "", "no schema_version"),
        ("cores = 8", "cores = 8\ncoers = 8", "unknown key coers"),
        ("cores = 8", "", "key cores is missing"),
        ("cores = 8", "cores = 0", "cores must be a whole number"),
        ("cores = 8", 'cores = "8"', "cores must be a whole number"),
        ("cpu = ", "cpu = 1 #", "cpu must be a text"),
        ("fp32 = ", "fp32 = -1 #", "fp32 must be a rate"),
        ("fp32 = ", "fp64 = ", "unknown dtype fp64"),
        ("fp32 = ", "fp32 = nan #", "fp32 must be a rate"),
        ("[gemm_flops_per_s]", "gemm_flops_per_s = 3", "must be a table"),
        ("cores = 8", "cores =", "is not valid TOML"),
    ],
)
def test_a_wrong_description_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = to_toml(_PHONE)
    assert old in text
    if new.startswith("gemm_flops_per_s"):
        text = text.split(old)[0] + new
    path = _write(tmp_path / "device.toml", text.replace(old, new))
    with pytest.raises(DeviceError, match=message) as caught:
        read_device(path)
    assert str(path) in str(caught.value)


def test_a_missing_description_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="edgetiny device"):
        read_device(tmp_path / "none.toml")


def test_the_processor_has_a_name() -> None:
    assert cpu_model()
    assert all(cpu_info())
