"""Settings of `edgetiny demo`, `edgetiny device` and `edgetiny doctor`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgetiny.config.base import Config, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig(Config):
    stage: ClassVar[str] = "demo"

    out: Path = setting(Path("demo-out"), "folder for every stage and report.html", writes="folder")
    text: tuple[Path, ...] = setting(
        (), "your own text instead of the embedded one; repeat for more"
    )
    prompt: str = setting("", "text that every model continues; words of the text if not given")
    fast: bool = setting(False, "train for seconds instead of minutes")
    overwrite: bool = setting(False, "replace --out if it exists")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceConfig(Config):
    stage: ClassVar[str] = "device"

    out: Path = setting(Path("device.toml"), "device description to write", writes="file")
    threads: int = setting(0, "CPU threads; 0 means one per core", minimum=0)
    seconds: float = setting(2.0, "time for each of the four measurements", minimum=0.01)
    overwrite: bool = setting(False, "replace --out if it exists")


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorConfig(Config):
    stage: ClassVar[str] = "doctor"
