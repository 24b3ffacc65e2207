"""Settings of `edgetiny data build`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgetiny.config.base import Config, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class DataBuildConfig(Config):
    stage: ClassVar[str] = "data_build"

    text: tuple[Path, ...] = setting(help="text file; repeat for more")
    tokenizer: Path = setting(help="tokenizer or checkpoint folder")
    out: Path = setting(help="shard folder to write", writes="folder")
    valid_fraction: float = setting(
        0.02, "share of the bytes held out, in whole works", minimum=0.0, maximum=0.9
    )
    processes: int = setting(0, "tokenizer processes; 0 means one per core", minimum=0)
    seed: int = setting(0, "seed of the split")
    overwrite: bool = setting(False, "replace --out if it exists")
