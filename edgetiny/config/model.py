"""Settings of the stages that make or remake a model: init, inherit, gqa, inspect."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from edgetiny.config.base import Config, setting
from edgetiny.errors import ConfigError

InitMethod = Literal[
    "constant", "gpt2", "gpt2-paper", "internlm", "internlm-code", "depth_adaptive", "neox"
]

_INIT_SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "rope_theta",
    "tie_word_embeddings",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InitConfig(Config):
    stage: ClassVar[str] = "init"

    out: Path = setting(help="checkpoint folder to write", writes="folder")
    tokenizer: Path | None = setting(None, "tokenizer folder; its size is the vocabulary")
    source: Path | None = setting(
        None,
        "give --series-activation or --augmented-shortcut to this checkpoint: its weights, shape"
        " and tokenizer stay, and it computes what it did until it is trained",
    )
    design: Path | None = setting(
        None,
        "the whole shape: a TOML file of edgetiny design, or the name of a preset",
        preset=True,
    )
    hidden_size: int | None = setting(None, "width (default: 256)", minimum=8)
    num_hidden_layers: int | None = setting(None, "depth (default: 8)", minimum=1)
    num_attention_heads: int | None = setting(None, "query heads (default: 8)", minimum=1)
    num_key_value_heads: int | None = setting(
        None, "key/value heads; as many as query heads if not given", minimum=1
    )
    head_dim: int | None = setting(None, "width of a head; width / heads if not given", minimum=2)
    intermediate_size: int | None = setting(
        None, "FFN width; 8/3 of the width rounded up to a multiple of 32 if not given", minimum=1
    )
    max_position_embeddings: int | None = setting(
        None, "longest context (default: 2048)", minimum=2
    )
    rope_theta: float | None = setting(
        None, "base of the rotary embedding (default: 10000)", minimum=1.0
    )
    tie_word_embeddings: bool | None = setting(
        None, "one tensor for embedding and head (default: yes)"
    )
    series_activation: int = setting(
        1,
        "terms of the FFN's activation: 2 as in PanGu-pi, 1 is SiLU itself; more would all begin at"
        " nothing and learn the same",
        minimum=1,
        maximum=2,
    )
    augmented_shortcut: bool = setting(
        False, "a bottleneck of width / 32 around attention, as in PanGu-pi"
    )
    init: InitMethod = setting(
        "constant",
        "deviations by matrix and layer; gpt2 and internlm also as the paper (-paper) or the code"
        " (-code) has them",
    )
    initializer_range: float | None = setting(
        None, "standard deviation that --init scales (default: 0.02)", minimum=0.0
    )
    seed: int = setting(0, "seed of the random weights")
    overwrite: bool = setting(False, "replace --out if it exists")

    def check(self) -> None:
        if (self.tokenizer is None) == (self.source is None):
            raise ConfigError("give --tokenizer, or --source, which has a tokenizer of its own")
        if self.source is not None:
            for name in ("design", *_INIT_SHAPE):
                if getattr(self, name) is not None:
                    flag = f"--{name.replace('_', '-')}"
                    raise ConfigError(f"--source has a shape: leave out {flag}, or --source")
            if self.series_activation == 1 and not self.augmented_shortcut:
                raise ConfigError(
                    "--source is for what a checkpoint lacks: give --series-activation 2 or"
                    " --augmented-shortcut"
                )
            for name in () if self.augmented_shortcut else ("init", "initializer_range", "seed"):
                if getattr(self, name) not in ("constant", None, 0):
                    flag = f"--{name.replace('_', '-')}"
                    raise ConfigError(
                        f"{flag} is for what is drawn; a series activation draws none"
                    )
        if self.design is not None:
            for name in _INIT_SHAPE:
                if getattr(self, name) is not None:
                    flag = f"--{name.replace('_', '-')}"
                    raise ConfigError(f"--design is the whole shape; leave out {flag}, or --design")
        if self.init == "neox" and self.initializer_range is not None:
            raise ConfigError(
                "--init neox takes its deviations from width and depth: leave out"
                " --initializer-range"
            )


STUDENT_AXES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
)


ScoreMethod = Literal["l1", "l2", "taylor", "activation", "random"]
NeuronMethod = Literal[ScoreMethod, "learned"]
LayersMethod = Literal["greedy", "one-shot", "block", "cosine", "learned", "random"]
Grouping = Literal["adjacent", "similarity"]
Pool = Literal["mean", "first", "random", "aligned"]

MASK_SETTINGS: dict[str, float] = {
    "mask_steps": 400,
    "mask_batch_size": 8,
    "mask_learning_rate": 0.1,
    "mask_weight_learning_rate": 1e-4,
    "mask_ramp": 0.4,
    "mask_anneal": 0.2,
    "mask_save_every": 100,
}
"""Settings of `--method learned`, and what they are if not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InheritConfig(Config):
    stage: ClassVar[str] = "inherit"

    source: Path = setting(help="checkpoint folder to inherit from", argument=True)
    data: Path = setting(
        help="token shards: training text chooses, held-out text gives the loss before and after"
    )
    out: Path = setting(help="checkpoint folder to write", writes="folder")
    tokenizer: Path | None = setting(
        None,
        "compact tokenizer made of the source's (edgetiny tokenizer compress): only its rows of"
        " embedding and head are inherited; --data are shards of it",
    )
    to: Path | None = setting(
        None,
        "the student's whole shape: a TOML file of edgetiny design, or the name of a preset",
        preset=True,
    )
    hidden_size: int | None = setting(
        None, "width of the student; as the source if not given", minimum=1
    )
    num_hidden_layers: int | None = setting(None, "depth of the student", minimum=1)
    num_attention_heads: int | None = setting(None, "query heads of the student", minimum=1)
    num_key_value_heads: int | None = setting(None, "key/value heads of the student", minimum=1)
    intermediate_size: int | None = setting(None, "FFN width of the student", minimum=1)
    method: NeuronMethod = setting(
        "taylor",
        "how neurons are chosen: by weights, gradients, what flows, trained masks, or at random",
    )
    layers_method: LayersMethod = setting(
        "greedy",
        "how layers are chosen: by skipping each and looking again, each once, runs of neighbours,"
        " by how far they turn their input, by masks trained with the neurons', or at random",
    )
    calibration_tokens: int = setting(
        16_384, "tokens of training text that choose; as many held-out ones are scored", minimum=1
    )
    mask_steps: int | None = setting(None, "steps of learned masks (default: 400)", minimum=10)
    mask_batch_size: int | None = setting(None, "sequences of a step (default: 8)", minimum=1)
    mask_learning_rate: float | None = setting(
        None, "of masks and multipliers (default: 0.1)", minimum=0.0
    )
    mask_weight_learning_rate: float | None = setting(
        None,
        "of the weights, trained along; 0 leaves them as they are (default: 1e-4)",
        minimum=0.0,
    )
    mask_ramp: float | None = setting(
        None,
        "share of the steps in which gates are closed (default: 0.4)",
        minimum=0.0,
        maximum=1.0,
    )
    mask_anneal: float | None = setting(
        None, "share of the steps in which they settle (default: 0.2)", minimum=0.0, maximum=1.0
    )
    mask_save_every: int | None = setting(
        None, "steps between saves into OUT.masks (default: 100)", minimum=1
    )
    seed: int = setting(0, "seed of what is chosen at random, and of masks", minimum=0)
    threads: int = setting(0, "CPU threads; 0 leaves PyTorch's default", minimum=0)
    resume: bool = setting(False, "go on from the masks saved in OUT.masks")
    overwrite: bool = setting(False, "replace --out if it exists")

    def check(self) -> None:
        if self.method != "learned":
            for name in (*MASK_SETTINGS, "resume"):
                if getattr(self, name) not in (None, False):
                    flag = f"--{name.replace('_', '-')}"
                    raise ConfigError(f"{flag} is for --method learned; leave it out")
            if self.layers_method == "learned":
                raise ConfigError("--layers-method learned needs --method learned")
        if self.seed and not {"random", "learned"} & {self.method, self.layers_method}:
            raise ConfigError("--seed is for what is random or learned; leave it out")
        if self.mask("ramp") + self.mask("anneal") > 1:
            raise ConfigError("--mask-ramp and --mask-anneal are shares of the steps: at most 1")
        if self.to is not None:
            for name in STUDENT_AXES:
                if getattr(self, name) is not None:
                    flag = f"--{name.replace('_', '-')}"
                    raise ConfigError(f"--to is the whole shape; leave out {flag}, or --to")

    def mask(self, name: str) -> float:
        """Return a setting of learned masks, by its name without `mask_`, or its default."""
        given = getattr(self, f"mask_{name}")
        return MASK_SETTINGS[f"mask_{name}"] if given is None else given


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportanceConfig(Config):
    stage: ClassVar[str] = "importance"

    source: Path = setting(help="checkpoint folder to look at", argument=True)
    data: Path = setting(
        help="token shards: held-out text scores the layers, training text the neurons"
    )
    layers: bool = setting(False, "loss without each run of 1, 2 and 3 layers, and their cosines")
    neurons: bool = setting(False, "how each method spreads its scores over the neurons")
    calibration_tokens: int = setting(16_384, "tokens of text to score with", minimum=1)
    out: Path | None = setting(None, "JSON file to write", writes="file")
    report: Path | None = setting(None, "HTML file to write", writes="file")
    threads: int = setting(0, "CPU threads; 0 leaves PyTorch's default", minimum=0)
    overwrite: bool = setting(False, "replace --out and --report if they exist")

    def check(self) -> None:
        if not (self.layers or self.neurons):
            raise ConfigError("nothing to score: give --layers, --neurons or both")
        if self.overwrite and self.out is None and self.report is None:
            raise ConfigError("--overwrite replaces --out or --report; neither is given")


@dataclass(frozen=True, kw_only=True, slots=True)
class GqaConfig(Config):
    stage: ClassVar[str] = "gqa"

    source: Path = setting(help="checkpoint folder to convert", argument=True)
    groups: int = setting(help="key/value heads of the result", minimum=1)
    out: Path = setting(help="checkpoint folder to write", writes="folder")
    grouping: Grouping = setting(
        "adjacent", "heads that share: neighbours, or those nearest on calibration text"
    )
    pool: Pool = setting(
        "mean",
        "a group's shared head: its mean, its first, one drawn at random, or the best one up to"
        " turns that attention does not see, with the output projection refitted",
    )
    data: Path | None = setting(
        None,
        "token shards: training text calibrates, held-out text gives bits per byte before and"
        " after; similarity and aligned need them",
    )
    calibration_tokens: int | None = setting(
        None, "tokens of calibration text (default: 32768)", minimum=1
    )
    context: int | None = setting(
        None,
        "tokens of a window of text; up to 512 of those the model was trained on if not given",
        minimum=2,
    )
    eval_tokens: int | None = setting(
        None, "most held-out tokens to score per text (default: 65536)", minimum=1
    )
    seed: int = setting(0, "seed of --pool random", minimum=0)
    threads: int = setting(0, "CPU threads; 0 leaves PyTorch's default", minimum=0)
    overwrite: bool = setting(False, "replace --out if it exists")

    @property
    def needs_text(self) -> bool:
        """Whether the conversion looks at text."""
        return self.grouping == "similarity" or self.pool == "aligned"

    def check(self) -> None:
        if self.data is None and self.needs_text:
            flag = "--pool aligned" if self.pool == "aligned" else "--grouping similarity"
            raise ConfigError(f"{flag} needs --data: token shards to calibrate with")
        for name in ("context", "eval_tokens"):
            if self.data is None and getattr(self, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{flag} needs --data: without text there are no windows")
        if self.calibration_tokens is not None and not self.needs_text:
            raise ConfigError(
                "--calibration-tokens is for --grouping similarity or --pool aligned; leave it out"
            )
        if self.seed and self.pool != "random":
            raise ConfigError("--seed is for --pool random; leave it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectConfig(Config):
    stage: ClassVar[str] = "inspect"

    source: Path = setting(help="checkpoint or artefact folder", argument=True)
