"""Settings of `edgetiny design`, and the table of one design in a TOML file.

The file is described in docs/formats/design.md.
"""

import re
from dataclasses import Field, dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgetiny.config.base import Config, flag_name, setting
from edgetiny.config.paths import Kind
from edgetiny.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignTable(Config):
    """A shape under Hugging Face's names."""

    name: str = setting(help="what rows call it")
    source: str = setting("", "where the shape comes from")
    num_hidden_layers: int = setting(help="depth", minimum=1)
    hidden_size: int = setting(help="width", minimum=1)
    intermediate_size: int = setting(help="width of the FFN", minimum=1)
    num_attention_heads: int = setting(help="query heads", minimum=1)
    num_key_value_heads: int | None = setting(
        None, "key/value heads; as many as query heads if left out", minimum=1
    )
    head_dim: int | None = setting(None, "width of a head; width / heads if left out", minimum=2)
    vocab_size: int = setting(help="rows of embedding and head", minimum=1)
    max_position_embeddings: int = setting(2048, "longest context", minimum=2)
    rope_theta: float = setting(10_000.0, "base of the rotary embedding", minimum=1.0)
    tie_word_embeddings: bool = setting(True, "one tensor for embedding and head")
    reference_tok_per_s_per_sequence: float | None = setting(
        None, "what others measured, for the report", minimum=0.0
    )


DesignPrecision = Literal["fp32", "fp16", "int8", "int4"]

# What each way of asking does not use; a setting that would do nothing is refused.
_RULES = (
    "num_hidden_layers",
    "hidden_size",
    "expansion",
    "ffn_multiple",
    "head_dim",
    "query_heads_per_kv_head",
    "tie_word_embeddings",
)
_LIMITS = ("max_pehf", "min_tok_s", "max_mb", "max_ram_mb")
_UNUSED = {
    "params": ("text",),
    "source": _RULES,
    "preset": (*_RULES, *_LIMITS, "vocab", "text"),
}
# Beyond it a family has too many shapes to weigh, and no device has the memory.
_MOST = 10**12
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_SPEED = ("min_tok_s", "reached_share", "layer_overhead_us")
# Settings of --sweep alone, and those of a design on paper that it has no use for.
_SWEEP = ("tokens", "data", "train_batch_size", "sequence_length", "learning_rate", "seed")
_NOT_SWEPT = ("device", "min_tok_s", "max_mb", "max_ram_mb", "num_hidden_layers", "hidden_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignConfig(Config):
    """Exactly one of `params`, `source` (`--from`) and `preset` says what is asked."""

    stage: ClassVar[str] = "design"

    params: str | None = setting(None, "parameters to design for, such as 1B or 350M")
    source: Path | None = setting(
        None,
        "or: checkpoint to make a smaller one of; chooses all sizes and the precision for the"
        " promises below, and writes the recipe",
        flag="--from",
    )
    preset: str | None = setting(None, "or: a published shape; a name that is none lists them")
    vocab: int | None = setting(
        None, "rows of embedding and head; required with --params, chosen with --from", minimum=32
    )
    device: Path | None = setting(None, "device description (TOML); adds the predicted speed")
    out: Path | None = setting(
        None,
        "design to write (TOML); with --from the recipe that makes the model; with --sweep a"
        " folder",
        writes="file",
    )
    num_hidden_layers: int | None = setting(
        None, "depth (default: near 20, as the paper recommends at 1B)", minimum=1
    )
    hidden_size: int | None = setting(None, "width; solved for if not given", minimum=8)
    expansion: float | None = setting(None, "FFN width over width (default: 8/3)", minimum=0.5)
    ffn_multiple: int | None = setting(
        None,
        "round the FFN up to a multiple of (default: 256; 64 if narrower than 1024)",
        minimum=1,
    )
    head_dim: int | None = setting(
        None, "width of a head (default: 128; 64 if narrower than 1024, 32 below 256)", minimum=2
    )
    query_heads_per_kv_head: int | None = setting(
        None, "query heads that share a key/value head (default: 1)", minimum=1
    )
    tie_word_embeddings: bool | None = setting(
        None, "one tensor for embedding and head (default: only if --max-pehf or the size needs it)"
    )
    max_pehf: float | None = setting(
        None,
        "largest share of embedding and head in the parameters (default: 0.2)",
        minimum=0.0,
        maximum=1.0,
    )
    precision: tuple[DesignPrecision, ...] = setting(
        (),
        "weights to count or, with --from, to choose from; repeat for more (default: fp16, int8,"
        " int4)",
    )
    kv: Literal["fp32", "fp16", "int8"] = setting("fp32", "storage of the key/value cache")
    batch: int = setting(1, "sequences decoded together", minimum=1)
    context: int = setting(512, "tokens that the cache holds, for memory and speed", minimum=2)
    min_tok_s: float | None = setting(
        None, "promise: predicted tokens a second, summed over the batch", minimum=0.0
    )
    max_mb: float | None = setting(None, "promise: bytes of the exported files / 1e6", minimum=0.0)
    max_ram_mb: float | None = setting(
        None,
        "promise: peak memory / 1e6 of our runtime with weights, cache and logits; it takes 210"
        " MB without",
        minimum=0.0,
    )
    reached_share: float | None = setting(
        None,
        "share of the device's limit that the engine reaches (default: what onnxruntime was"
        " measured to reach, by precision and batch)",
        minimum=0.01,
        maximum=1.0,
    )
    layer_overhead_us: float | None = setting(
        None,
        "time of a layer beside that, in microseconds (default: 60, and 0.9 a head and sequence)",
        minimum=0.0,
    )
    text: tuple[Path, ...] = setting((), "text that the recipe's steps read; repeat for more")
    sweep: int | None = setting(
        None, "with --params: train so many shapes of the size alike, and compare them", minimum=2
    )
    data: Path | None = setting(None, "token shards that --sweep trains on")
    tokens: str | None = setting(None, "tokens that each shape of --sweep sees, such as 2M")
    train_batch_size: int = setting(8, "sequences in a step of --sweep", minimum=1)
    sequence_length: int = setting(256, "tokens of a sequence in --sweep", minimum=2)
    learning_rate: float = setting(2e-3, "peak learning rate of --sweep", minimum=0.0)
    seed: int = setting(0, "seed of the weights and the order of --sweep", minimum=0)
    resume: bool = setting(False, "go on with the sweep in --out")
    overwrite: bool = setting(False, "replace --out if it exists")

    def writes(self, spec: Field[Any]) -> Kind | None:
        if spec.name == "out" and self.sweep is not None:
            return "folder"
        return Config.writes(self, spec)

    def check(self) -> None:
        if self.sweep is None:
            self._check_no_sweep()
        else:
            self._check_sweep()
        asked = [name for name in _UNUSED if getattr(self, name) is not None]
        if len(asked) != 1:
            raise ConfigError("give one of --params, --from and --preset: what to design")
        for name in _UNUSED[asked[0]]:
            if getattr(self, name) not in (None, ()):
                flag = "--from" if asked[0] == "source" else f"--{asked[0]}"
                raise ConfigError(f"--{name.replace('_', '-')} does nothing with {flag}")
        if self.device is None:
            for name in _SPEED:
                if getattr(self, name) is not None:
                    flag = f"--{name.replace('_', '-')}"
                    raise ConfigError(f"{flag} needs --device: the machine to predict for")
        if self.params is not None:
            parse_size(self.params)
            if self.vocab is None and self.sweep is None:
                raise ConfigError("--params needs --vocab: the rows of embedding and head")
        if self.source is not None and all(
            promise is None for promise in (self.min_tok_s, self.max_mb, self.max_ram_mb)
        ):
            raise ConfigError("--from needs a promise: --min-tok-s, --max-mb or --max-ram-mb")
        if self.source is not None and self.kv == "fp16":
            raise ConfigError("--kv fp16 is no cache of the recipe's ONNX file; give fp32 or int8")
        if self.source is not None and self.out is not None and self.out.suffix != ".toml":
            raise ConfigError(
                f"--out {self.out} must end in .toml: the recipe's stages write into the folder of"
                " that name without it"
            )
        if self.text and self.out is None:
            raise ConfigError("--text is for the recipe; give --out as well")

    def _check_no_sweep(self) -> None:
        for spec in fields(self):
            if spec.name in (*_SWEEP, "resume") and getattr(self, spec.name) != spec.default:
                raise ConfigError(f"{flag_name(spec)} is for --sweep; give that too")

    def _check_sweep(self) -> None:
        if self.params is None:
            raise ConfigError("--sweep needs --params: the size of the shapes to train")
        for name, what in (("data", "token shards"), ("tokens", "how long to train")):
            if getattr(self, name) is None:
                raise ConfigError(f"--sweep needs --{name}: {what}")
        if self.out is None:
            raise ConfigError("--sweep needs --out: a folder for its models and results")
        if len(self.precision) > 1:
            raise ConfigError("--sweep measures one --precision; give one")
        for name in (*_NOT_SWEPT, "reached_share", "layer_overhead_us"):
            if getattr(self, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} does nothing with --sweep")
        if self.resume and self.overwrite:
            raise ConfigError("--resume keeps --out and --overwrite replaces it; give one of them")
        if self.context < 4:
            raise ConfigError(
                f"--context {self.context} leaves --sweep nothing to decode; at least 4"
            )
        assert self.tokens is not None
        parse_size(self.tokens, "--tokens")


def parse_size(text: str, flag: str = "--params") -> int:
    """Return a number of parameters or tokens: 1B, 1.5b, 350M, 800K or digits.

    Raises ConfigError for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb]?)", text.strip().lower())
    size = int(Decimal(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise ConfigError(f"{flag} {text} is no size; write it like 350M, 1.5B or 1500000")
    if size > _MOST:
        raise ConfigError(f"{flag} {text} is more than {_MOST / 10**9:g}B; give less")
    return size
