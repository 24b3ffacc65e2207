"""Settings of `edgetiny export` and `edgetiny verify`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from edgetiny.config.base import Config, setting
from edgetiny.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig(Config):
    stage: ClassVar[str] = "export"

    source: Path | None = setting(
        None,
        "checkpoint folder; the one you stand in, else the newest demo output, if not given",
        argument=True,
    )
    out: Path | None = setting(None, "artefact folder; beside the checkpoint if not given")
    format: Literal["onnx"] = setting("onnx", "format of the artefact")
    precision: Literal["fp32", "fp16", "int8"] = setting("int8", "storage of the weights")
    block_size: int = setting(
        32, "weights that share a scale at int8, a power of two", minimum=16, maximum=256
    )
    gqa_groups: int | None = setting(
        None, "mean-pool the key/value heads to this many on the way out", minimum=1
    )
    context: int | None = setting(
        None,
        "tokens that the artefact can hold; what the model can, or 1024 if that is less",
        minimum=2,
    )
    text: Path | None = setting(None, "held-out text that verification scores as well")
    overwrite: bool = setting(False, "replace --out if it exists")

    def check(self) -> None:
        if self.block_size & (self.block_size - 1):
            raise ConfigError(
                f"--block-size {self.block_size} is not a power of two;"
                " choose from 16, 32, 64, 128, 256"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig(Config):
    stage: ClassVar[str] = "verify"

    artefact: Path = setting(help="artefact folder", argument=True)
    against: Path = setting(help="checkpoint folder that it was exported from")
    text: Path | None = setting(None, "held-out text to score as well")
