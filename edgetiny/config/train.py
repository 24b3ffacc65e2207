"""Settings of `edgetiny train`."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

from edgetiny.config.base import Config, flag_name, setting
from edgetiny.errors import ConfigError

_STEPS = 1000

FREE_SETTINGS = frozenset(
    {
        "checkpoint",
        "data",
        "out",
        # The steps that it stands for are compared.
        "fraction",
        "eval_every",
        "eval_tokens",
        "save_every",
        "sample_every",
        "sample_prompt",
        "sample_tokens",
        "sample_temperature",
        "tensorboard",
        "resume",
        "overwrite",
    }
)
"""What may differ when a run is resumed: none of it changes a weight. Checkpoint and data may
have moved; that they are the same is checked by hash."""

TrainPrecision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Config):
    """Defaults follow the paper: AdamW (0.9, 0.95), weight decay 0.1, cosine, clip 1.0."""

    stage: ClassVar[str] = "train"

    checkpoint: Path = setting(help="checkpoint folder to start from", argument=True)
    data: Path = setting(help="token shards")
    out: Path = setting(help="checkpoint folder to write, training state included", writes="folder")
    steps: int | None = setting(None, f"optimizer steps (default: {_STEPS})", minimum=1)
    fraction: float = setting(
        0.0,
        "share of the training tokens to see, instead of --steps; 0 means --steps",
        minimum=0.0,
        maximum=1000.0,
    )
    batch_size: int = setting(8, "sequences in one forward pass", minimum=1)
    gradient_accumulation: int = setting(1, "forward passes in one step", minimum=1)
    sequence_length: int = setting(512, "tokens of a sequence", minimum=2)
    learning_rate: float = setting(1e-3, "peak learning rate", minimum=0.0)
    warmup_fraction: float = setting(
        0.05, "share of the steps that warm up", minimum=0.0, maximum=1.0
    )
    final_lr_fraction: float = setting(
        0.1, "last learning rate over the peak", minimum=0.0, maximum=1.0
    )
    weight_decay: float = setting(
        0.1, "decay of the weight matrices; norms and biases have none", minimum=0.0
    )
    beta1: float = setting(0.9, "AdamW's first moment", minimum=0.0, maximum=0.99999)
    beta2: float = setting(0.95, "AdamW's second moment", minimum=0.0, maximum=0.99999)
    clip: float = setting(1.0, "largest gradient norm; 0 means no limit", minimum=0.0)
    device: Literal["cpu", "cuda"] = setting("cpu", "where to train")
    threads: int = setting(0, "CPU threads; 0 leaves PyTorch's default", minimum=0)
    precision: TrainPrecision = setting(
        "auto",
        "arithmetic of the matrix products; auto: bf16 where it is measured to be faster",
    )
    compile: bool = setting(False, "compile the model with torch.compile")
    seed: int = setting(0, "seed of the sample order", minimum=0)
    eval_every: int = setting(200, "steps between validations; 0 means only at the end", minimum=0)
    eval_tokens: int = setting(65_536, "most held-out tokens of one validation", minimum=1)
    save_every: int = setting(200, "steps between saves of the training state", minimum=1)
    sample_every: int = setting(0, "steps between printed samples; 0 means never", minimum=0)
    sample_prompt: str = setting("", "text that a sample continues")
    sample_tokens: int = setting(64, "most tokens of a sample", minimum=1)
    sample_temperature: float = setting(0.8, "0 takes the likeliest token", minimum=0.0)
    tensorboard: bool = setting(False, "write TensorBoard events into OUT/tensorboard")
    resume: bool = setting(False, "go on from the state in --out")
    overwrite: bool = setting(False, "replace --out if it exists")

    @property
    def n_steps(self) -> int:
        """Optimizer steps: as asked, or what is done where nothing is said of them."""
        return _STEPS if self.steps is None else self.steps

    def check(self) -> None:
        if self.resume and self.overwrite:
            raise ConfigError("--resume keeps --out and --overwrite replaces it; give one of them")
        if self.fraction and self.steps is not None:
            raise ConfigError("--fraction says how many steps there are; give it or --steps")
        if not self.sample_every:
            for spec in fields(self):
                if spec.name.startswith("sample_") and getattr(self, spec.name) != spec.default:
                    raise ConfigError(f"{flag_name(spec)} does nothing without --sample-every")
