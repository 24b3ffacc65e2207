"""How the weights and the KV cache are stored: everything that decides their bytes but the text."""

from dataclasses import dataclass

from edgetiny.config.export import Kernel, KvDtype, Method, Precision
from edgetiny.errors import ConfigError

SMALLEST_BLOCK, LARGEST_BLOCK = 16, 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """Storage of every matrix; norms and biases stay as they are."""

    precision: Precision
    kernel: Kernel = "weight_only"
    """Weights alone in integers, or activations too. At int8 a scale per block or per output
    channel accordingly; int4 is stored in blocks either way, and becomes channels when it loads."""
    block_size: int = 32
    """Weights that share a scale, a power of two. A scale per channel has no use for it."""
    method: Method = "rtn"
    """How int4 is rounded: to the nearest, by scales fitted without text, or by `calibrate`."""
    kv: KvDtype = "fp32"
    """Storage of keys and values; int8 needs scales from `calibrate`."""

    def __post_init__(self) -> None:
        size = self.block_size
        if not SMALLEST_BLOCK <= size <= LARGEST_BLOCK or size & (size - 1):
            raise ConfigError(
                f"a block size of {size} is not a power of two from {SMALLEST_BLOCK} to"
                f" {LARGEST_BLOCK}; choose 32, 64 or 128"
            )
        if self.method != "rtn" and self.precision != "int4":
            raise ConfigError(
                f"method {self.method} is for int4; {self.precision} weights are rounded plainly"
            )
        if self.kernel == "dynamic" and self.precision not in ("int8", "int4"):
            raise ConfigError(
                f"the dynamic kernel multiplies int8 channels, not {self.precision} weights;"
                " choose weight_only"
            )

    @property
    def needs_text(self) -> bool:
        """Whether the weights come from `calibrate` and not from `Weights` alone."""
        return self.method == "gptq" or self.kv == "int8"

    @property
    def is_per_channel(self) -> bool:
        """Whether a matrix has one scale per output channel."""
        return self.kernel == "dynamic" and self.precision == "int8"
