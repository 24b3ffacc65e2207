"""Settings of `edgetiny export` and `edgetiny verify`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from edgetiny.config.base import Config, setting
from edgetiny.config.model import Grouping
from edgetiny.errors import ConfigError

Format = Literal["onnx", "executorch", "gguf"]
Layout = Literal["edgetiny", "portable", "transformers-js"]
Precision = Literal["fp32", "fp16", "int8", "int4"]
Kernel = Literal["weight_only", "dynamic"]
KvDtype = Literal["fp32", "fp16", "int8"]
Target = Literal["cpu", "cuda"]
Method = Literal["rtn", "gptq", "hqq"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig(Config):
    stage: ClassVar[str] = "export"

    source: Path | None = setting(
        None,
        "checkpoint folder; the one you stand in, else the newest demo output, if not given",
        argument=True,
    )
    out: Path | None = setting(
        None, "artefact folder; beside the checkpoint if not given", writes="folder"
    )
    format: tuple[Format, ...] = setting(("onnx",), "format of the artefact; repeat for more")
    precision: Precision = setting("int8", "storage of the weights")
    kernel: Kernel | None = setting(
        None,
        "how int8 and int4 weights are multiplied: as blocks, or per channel with activations"
        " quantized too; by the batch class if not given",
    )
    block_size: int | None = setting(
        None,
        "weights that share a scale at int8 and int4, a power of two (default: 32)",
        minimum=16,
        maximum=256,
    )
    kv: KvDtype | None = setting(None, "storage of the key/value cache; by the format if not given")
    layout: Layout | None = setting(
        None,
        "what a graph takes and gives: our runtime's own and fastest (edgetiny, the default), what"
        " other programs load (portable), or a browser's (transformers-js)",
    )
    batch: tuple[int, ...] = setting(
        (), "batch class to plan for; repeat for more (default: 1)", minimum=1
    )
    target: Target = setting("cpu", "what the artefact will run on")
    method: Method | None = setting(
        None,
        "how int4 is rounded: to the nearest (rtn), by text (gptq), or by a fit without text (hqq);"
        " gptq where text calibrates, rtn elsewhere, if not given",
    )
    data: Path | None = setting(
        None, "token shards: their training part calibrates, their held-out part is scored"
    )
    calibration_text: Path | None = setting(None, "text that calibrates, instead of --data")
    gqa_groups: int | None = setting(
        None, "merge the key/value heads to this many on the way out", minimum=1
    )
    gqa_grouping: Grouping | None = setting(
        None,
        "heads that --gqa-groups lets share: neighbours (adjacent, the default), or those nearest"
        " on calibration text (similarity)",
    )
    gqa_pool: Literal["mean", "aligned"] | None = setting(
        None,
        "a group's shared head: its mean (the default), or the best one on calibration text, as of"
        " `edgetiny gqa` (aligned)",
    )
    context: int | None = setting(
        None,
        "tokens that the artefact can hold; what the model can, or 1024 if that is less",
        minimum=2,
    )
    text: Path | None = setting(None, "held-out text that verification scores as well")
    allow_unverified: bool = setting(
        False, "also make what can be lowered but not run here; name and manifest say so"
    )
    tune: bool = setting(
        False,
        "time the kernels that int8 and int4 weights have in ONNX on this machine, and make the"
        " fastest; --kernel and --block-size leave it less to choose from",
    )
    dry_run: bool = setting(
        False, "write nothing; say what each file would take, and what is refused"
    )
    device: Path | None = setting(
        None, "device description (TOML) that --dry-run predicts the speed of"
    )
    overwrite: bool = setting(False, "replace --out if it exists")

    def check(self) -> None:
        size = self.block_size
        if size is not None and size & (size - 1):
            raise ConfigError(
                f"--block-size {size} is not a power of two; choose from 16, 32, 64, 128, 256"
            )
        if self.tune and self.dry_run:
            raise ConfigError("--tune runs what --dry-run only forecasts; leave one of them out")
        if self.device is not None and not self.dry_run:
            raise ConfigError("--device is what --dry-run predicts for; give --dry-run too")
        if self.data is not None and self.calibration_text is not None:
            raise ConfigError("give --data or --calibration-text, not both")
        if self.gqa_groups is None and (self.gqa_pool or self.gqa_grouping):
            given = "--gqa-pool" if self.gqa_pool else "--gqa-grouping"
            raise ConfigError(f"{given} is how --gqa-groups merges heads; give --gqa-groups too")
        if not self.format:
            raise ConfigError("--format is empty; give onnx, executorch or gguf")


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig(Config):
    stage: ClassVar[str] = "verify"

    artefact: Path = setting(help="artefact folder", argument=True)
    against: Path = setting(help="checkpoint folder that it was exported from")
    text: Path | None = setting(None, "held-out text to score as well")
    data: Path | None = setting(
        None,
        "token shards whose held-out part is scored as well; those of the export, where text merged"
        " the key/value heads",
    )
    calibration_text: Path | None = setting(
        None, "text that merged the key/value heads at the export, instead of --data"
    )

    def check(self) -> None:
        if self.data is not None and self.calibration_text is not None:
            raise ConfigError("give --data or --calibration-text, not both")
