"""The shape of a LLaMA-like decoder, to and from Hugging Face's `config.json`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

from edgetiny.errors import CheckpointError, ConfigError

Bias = Literal["none", "qkv", "qkvo"]

# With an option of PanGu-pi the sums are no other program's, so the type is none that one knows.
OWN_TYPE = "edgetiny"
_READABLE = ("llama", "mistral", "qwen2", "internlm", "internlm2", OWN_TYPE)
# transformers looks activations up by name, and stops here even if told to read a LLaMA.
_OWN_ACTIVATION = "edgetiny-silu"
_MOST_TERMS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeScaling:
    """LLaMA-3's stretching of low rotary frequencies. Source: Llama 3.1 model card and code."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes and options under their Hugging Face names; complete and consistent once built.

    bias: which attention projections add one: none (LLaMA), qkv (Qwen2), qkvo (InternLM).
    series_activation: terms of the FFN's activation, sum_i silu(a_i x + b_i); 1 is SiLU itself.
    augmented_shortcut: width of the bottleneck beside attention, gelu(x A) B; 0 is none.
        Source of both: Wang et al. 2023, "PanGu-pi" (arXiv 2312.17276), section 4.
    Raises ConfigError for sizes that do not go together.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = True
    bias: Bias = "none"
    series_activation: int = 1
    augmented_shortcut: int = 0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"{self.num_key_value_heads} key/value heads do not divide"
                f" {self.num_attention_heads} query heads;"
                f" choose from {', '.join(map(str, divisors(self.num_attention_heads)))}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim must be even for rotary embeddings, not {self.head_dim}")
        if not 1 <= self.series_activation <= _MOST_TERMS:
            raise ConfigError(
                f"series_activation must be 1 to {_MOST_TERMS} terms, not {self.series_activation}"
            )
        if not 0 <= self.augmented_shortcut <= self.hidden_size:
            raise ConfigError(
                f"augmented_shortcut must be 0 to hidden_size {self.hidden_size} wide, not"
                f" {self.augmented_shortcut}"
            )

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def is_plain(self) -> bool:
        """Whether LLaMA's own sums are all there is, which every other program computes too."""
        return self.series_activation == 1 and self.augmented_shortcut == 0

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> Self:
        """Build from a parsed `config.json`.

        generation: a parsed `generation_config.json`. It may name ids that end a text beside those
        of `config.json`, as LLaMA-3-Instruct's and Qwen2.5-Instruct's do.
        Raises CheckpointError, naming the key, for anything that this decoder does not compute.
        """
        eos = _as_tuple(raw.get("eos_token_id"))
        further = [index for index in _ends_of(generation or {}) if index not in eos]
        _refuse_unsupported(raw)
        n_heads = _required(raw, "num_attention_heads")
        hidden_size = _required(raw, "hidden_size")
        try:
            return cls(
                vocab_size=_required(raw, "vocab_size"),
                hidden_size=hidden_size,
                intermediate_size=_required(raw, "intermediate_size"),
                num_hidden_layers=_required(raw, "num_hidden_layers"),
                num_attention_heads=n_heads,
                num_key_value_heads=raw.get("num_key_value_heads") or n_heads,
                head_dim=raw.get("head_dim") or hidden_size // n_heads,
                rms_norm_eps=_number(raw, "rms_norm_eps", 1e-6),
                rope_theta=_number(_rope(raw), "rope_theta", _number(raw, "rope_theta", 1e4)),
                rope_scaling=_rope_scaling(raw),
                max_position_embeddings=_context(raw),
                tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
                bias=_bias(raw),
                **_options(raw),
                bos_token_id=raw.get("bos_token_id"),
                eos_token_ids=(*eos, *further),
                pad_token_id=raw.get("pad_token_id"),
            )
        except ConfigError as error:
            raise CheckpointError(f"config.json: {error}") from error

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` that transformers, llama.cpp and optimum read.

        Both `rope_theta` (transformers 4) and `rope_parameters` (transformers 5) are written.
        With an option of PanGu-pi it is a type of our own, which they all refuse.
        """
        is_qwen = self.is_plain and self.bias == "qkv"
        scaling = None
        if self.rope_scaling is not None:
            scaling = {"rope_type": "llama3"} | asdict(self.rope_scaling)
        eos = self.eos_token_ids
        hf = {
            "architectures": ["Qwen2ForCausalLM" if is_qwen else "LlamaForCausalLM"],
            "model_type": "qwen2" if is_qwen else "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "rope_parameters": {"rope_type": "default"}
            | (scaling or {})
            | {"rope_theta": self.rope_theta},
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.bias != "none",
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos[0] if len(eos) == 1 else list(eos) or None,
            "pad_token_id": self.pad_token_id,
            "use_cache": True,
        } | ({"use_sliding_window": False} if is_qwen else {"mlp_bias": False})
        if self.is_plain:
            return hf
        return hf | {
            "architectures": ["EdgetinyForCausalLM"],
            "model_type": OWN_TYPE,
            "hidden_act": _OWN_ACTIVATION,
            "bias": self.bias,
            "series_activation": self.series_activation,
            "augmented_shortcut": self.augmented_shortcut,
        }


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor of a checkpoint by name, in the order of the forward pass."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    q_width = config.num_attention_heads * config.head_dim
    kv_width = config.num_key_value_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        for name, width in (("q", q_width), ("k", kv_width), ("v", kv_width)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (width, hidden)
            if config.bias != "none":
                shapes[f"{layer}.self_attn.{name}_proj.bias"] = (width,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (hidden, q_width)
        if config.bias == "qkvo":
            shapes[f"{layer}.self_attn.o_proj.bias"] = (hidden,)
        if config.augmented_shortcut:
            shapes[f"{layer}.shortcut.reduce.weight"] = (config.augmented_shortcut, hidden)
            shapes[f"{layer}.shortcut.expand.weight"] = (hidden, config.augmented_shortcut)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (ffn, hidden)
        shapes[f"{layer}.mlp.up_proj.weight"] = (ffn, hidden)
        # Vectors, so that no scheme rounds them and no weight decay pulls them to zero.
        for term in range(config.series_activation if config.series_activation > 1 else 0):
            shapes[f"{layer}.mlp.series.{term}.scale"] = (ffn,)
            shapes[f"{layer}.mlp.series.{term}.shift"] = (ffn,)
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, ffn)
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


def divisors(number: int) -> list[int]:
    """Return the divisors of a positive number, ascending."""
    return [part for part in range(1, number + 1) if number % part == 0]


def _required(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if type(value) is not int:
        raise CheckpointError(f"config.json: {key} must be a whole number, not {value!r}")
    return value


def _number(raw: Mapping[str, Any], key: str, default: float) -> float:
    value = raw.get(key)
    if value is None:
        return default
    if type(value) not in (int, float):
        raise CheckpointError(f"config.json: {key} must be a number, not {value!r}")
    return float(value)


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    model_type = raw.get("model_type")
    if model_type not in _READABLE:
        raise CheckpointError(
            f"config.json: model_type {model_type!r} is not supported;"
            f" known: {', '.join(_READABLE)}"
        )
    is_own = model_type == OWN_TYPE
    wanted = {
        "hidden_act": (_OWN_ACTIVATION,) if is_own else ("silu", "swish", None),
        "mlp_bias": (False, None),
        "partial_rotary_factor": (1, 1.0, None),
        "quantization_config": (None,),
        "pretraining_tp": (1, None),
        "num_local_experts": (0, None),
        "num_experts": (0, None),
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
    }
    for key, allowed in wanted.items():
        if raw.get(key) not in allowed:
            raise CheckpointError(f"config.json: {key} = {raw[key]!r} is not supported")


def _rope(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    return raw.get("rope_parameters") or raw.get("rope_scaling") or {}


def _rope_type(raw: Mapping[str, Any]) -> str:
    rope = _rope(raw)
    return str(rope.get("rope_type", rope.get("type", "default")))


def _rope_scaling(raw: Mapping[str, Any]) -> RopeScaling | None:
    rope, kind = _rope(raw), _rope_type(raw)
    # "dynamic" changes nothing up to max_position_embeddings, and we go no further.
    if kind in ("default", "dynamic"):
        return None
    if kind != "llama3":
        raise CheckpointError(
            f"config.json: rotary scaling {kind!r} is not supported;"
            " known: default, dynamic, llama3"
        )
    try:
        return RopeScaling(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_position_embeddings=int(rope["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise CheckpointError(f"config.json: rope scaling lacks {error}") from error


def _context(raw: Mapping[str, Any]) -> int:
    """The longest context: a sliding window is not computed, so it bounds the context."""
    longest = int(_number(raw, "max_position_embeddings", 2048))
    window = raw.get("sliding_window")
    if window and raw.get("use_sliding_window", True):
        return min(longest, int(window))
    return longest


def _bias(raw: Mapping[str, Any]) -> Bias:
    if raw["model_type"] == "qwen2":
        return "qkv"
    if raw["model_type"] == OWN_TYPE:
        for known in get_args(Bias):
            if raw.get("bias") == known:
                bias: Bias = known
                return bias
        raise CheckpointError(f"config.json: bias = {raw.get('bias')!r} is not supported")
    return "qkvo" if raw.get("attention_bias") or raw.get("bias") else "none"


def _options(raw: Mapping[str, Any]) -> dict[str, int]:
    if raw["model_type"] != OWN_TYPE:
        return {}
    return {name: _required(raw, name) for name in ("series_activation", "augmented_shortcut")}


def _ends_of(generation: Mapping[str, Any]) -> tuple[int, ...]:
    ids = _as_tuple(generation.get("eos_token_id"))
    if not all(type(index) is int for index in ids):
        raise CheckpointError(
            "generation_config.json: eos_token_id must be a whole number or a list of them, not"
            f" {generation['eos_token_id']!r}"
        )
    return tuple(dict.fromkeys(ids))


def _as_tuple(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)
