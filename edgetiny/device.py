"""A machine in a few figures, as TOML: `edgetiny device` measures this one, a person may write any.

The format is described in docs/formats/device.md.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgetiny.config.demo import DeviceConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import DeviceError
from edgetiny.files import atomic_file, read_toml, refuse_existing, toml_value
from edgetiny.measure import (
    GEMM_DTYPES,
    Bandwidth,
    GemmPeak,
    cores,
    gemm_peak,
    llc_bytes,
    ram_bytes,
    read_bandwidth,
)

SCHEMA_VERSION = 1
DTYPES = ("fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What a machine can do at most. Rates are per second; None is unknown, never zero.

    source: how the figures came to be: measured with what, or read where.
    gemm_flops_per_s: by dtype (fp32, bf16, fp16, int8); a multiplication and an addition are two.
    """

    name: str
    source: str
    cpu: str
    cores: int
    threads: int
    ram_bytes: int
    llc_bytes: int | None
    read_bandwidth_bytes_per_s: float
    gemm_flops_per_s: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceResult:
    """A measured device and the file that describes it."""

    device: Device
    path: Path

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints."""
        device = self.device
        return {
            "device": device.name,
            "written_to": str(self.path),
            "source": device.source,
            "cpu": device.cpu,
            "cores": device.cores,
            "threads": device.threads,
            "ram_bytes": device.ram_bytes,
            "llc_bytes": device.llc_bytes,
            "read_bandwidth_gb_per_s": device.read_bandwidth_bytes_per_s / 1e9,
            "gemm_gflops_per_s": {
                dtype: rate / 1e9 for dtype, rate in device.gemm_flops_per_s.items()
            },
        }


def run(config: DeviceConfig, reporter: Reporter = QUIET) -> DeviceResult:
    """Measure this machine and write its description. Raises ConfigError if --out stands."""
    refuse_existing(config.out, overwrite=config.overwrite)
    device = measure_device(config.threads or cores(), config.seconds, reporter)
    with atomic_file(config.out) as path:
        path.write_text(to_toml(device), encoding="utf-8")
    return DeviceResult(device=device, path=config.out)


def measure_device(threads: int, seconds: float, reporter: Reporter = QUIET) -> Device:
    """Measure what `threads` threads reach on this machine, `seconds` for each of four figures."""
    load = os.getloadavg()[0]
    if load > cores() / 2:
        reporter.say(f"other programs are busy here (load {load:.1f}): the figures will be too low")
    with reporter.task("measuring this machine", total=1 + len(GEMM_DTYPES)) as task:
        bandwidth = read_bandwidth(threads, seconds)
        task.advance(note=f"memory {bandwidth.bytes_per_s / 1e9:.1f} GB/s")
        peaks = {}
        for dtype in GEMM_DTYPES:
            peak = gemm_peak(dtype, threads, seconds)
            if peak is not None:
                peaks[dtype] = peak
            task.advance(note=f"{dtype} {peak.flops_per_s / 1e9:.0f} G/s" if peak else "")
    return Device(
        name=platform.node() or "this machine",
        source=_source(bandwidth, list(peaks.values()), load),
        cpu=cpu_model(),
        cores=cores(),
        threads=threads,
        ram_bytes=ram_bytes(),
        llc_bytes=llc_bytes(),
        read_bandwidth_bytes_per_s=bandwidth.bytes_per_s,
        gemm_flops_per_s={dtype: peak.flops_per_s for dtype, peak in peaks.items()},
    )


def cpu_model() -> str:
    """Return the processor's name as the kernel gives it, else its architecture."""
    info = cpu_info()
    return info.get("model name") or info.get("Hardware") or platform.machine()


def cpu_info() -> dict[str, str]:
    """Return the first processor's entries of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    entries: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            entries.setdefault(key.strip(), value.strip())
    return entries


def to_toml(device: Device) -> str:
    """Return the description as TOML; rates are whole numbers, more digits would mean nothing."""
    lines = [f"schema_version = {SCHEMA_VERSION}"]
    for spec in fields(device):
        value = getattr(device, spec.name)
        if value is not None and not isinstance(value, Mapping):
            figure = value if isinstance(value, str) else round(value)
            lines.append(f"{spec.name} = {toml_value(figure)}")
    lines += ["", "[gemm_flops_per_s]"]
    lines += [f"{dtype} = {round(rate)}" for dtype, rate in device.gemm_flops_per_s.items()]
    return "\n".join(lines) + "\n"


def read_device(path: Path) -> Device:
    """Read a description. Raises DeviceError naming the key that is missing, unknown or wrong."""
    if not path.exists():
        raise DeviceError(f"{path} does not exist; `edgetiny device` writes one")
    kind = "device description"
    values = read_toml(path, kind, schema_version=SCHEMA_VERSION, error=DeviceError)
    return _from_values(values, path)


def _from_values(values: Mapping[str, Any], path: Path) -> Device:
    names = [spec.name for spec in fields(Device)]
    for key in values:
        if key not in names:
            raise DeviceError(f"{path}: unknown key {key}; known: {', '.join(names)}")
    for key in names:
        if key not in values and key != "llc_bytes":
            raise DeviceError(f"{path}: key {key} is missing")
    rates = values["gemm_flops_per_s"]
    if not isinstance(rates, Mapping):
        raise DeviceError(f"{path}: gemm_flops_per_s must be a table of rates by dtype")
    for dtype in rates:
        if dtype not in DTYPES:
            raise DeviceError(f"{path}: unknown dtype {dtype}; known: {', '.join(DTYPES)}")
    cache = values.get("llc_bytes")
    return Device(
        name=_text(values, "name", path),
        source=_text(values, "source", path),
        cpu=_text(values, "cpu", path),
        cores=_count(values, "cores", path),
        threads=_count(values, "threads", path),
        ram_bytes=_count(values, "ram_bytes", path),
        llc_bytes=None if cache is None else _count(values, "llc_bytes", path),
        read_bandwidth_bytes_per_s=_rate(values, "read_bandwidth_bytes_per_s", path),
        gemm_flops_per_s={dtype: _rate(rates, dtype, path) for dtype in rates},
    )


def _text(values: Mapping[str, Any], key: str, path: Path) -> str:
    value = values[key]
    if not isinstance(value, str) or not value:
        raise DeviceError(f"{path}: {key} must be a text, not {value!r}")
    return value


def _count(values: Mapping[str, Any], key: str, path: Path) -> int:
    value = values[key]
    if type(value) is not int or value < 1:
        raise DeviceError(f"{path}: {key} must be a whole number from 1 up, not {value!r}")
    return value


def _rate(values: Mapping[str, Any], key: str, path: Path) -> float:
    value = values[key]
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise DeviceError(f"{path}: {key} must be a rate above 0, not {value!r}")
    return float(value)


def _source(bandwidth: Bandwidth, peaks: list[GemmPeak], load: float) -> str:
    import torch

    sizes = ", ".join(f"{peak.dtype} {peak.size}^3" for peak in peaks)
    return (
        f"measured with torch {torch.__version__}, {bandwidth.threads} threads, load {load:.1f}"
        f" beforehand, best pass of each:"
        f" {bandwidth.kernel} over {bandwidth.buffer_bytes / 2**20:.0f} MiB"
        f" (median {bandwidth.median_bytes_per_s / 1e9:.1f} GB/s); products {sizes}"
    )
