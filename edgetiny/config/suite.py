"""Tables of a benchmark suite: what stands in its TOML file beside the designs.

The format is described in docs/formats/suite.md.
"""

from dataclasses import dataclass

from edgetiny.config.base import Config, setting
from edgetiny.config.run import BenchPrecision, RuntimeName


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolTable(Config):
    """How designs are run; what is left out is decided elsewhere."""

    runtimes: tuple[RuntimeName, ...] = setting((), "engines")
    precisions: tuple[BenchPrecision, ...] = setting((), "weights")
    batches: tuple[int, ...] = setting((), "sequences decoded together", minimum=1)
    contexts: tuple[int, ...] = setting((), "tokens in the cache beforehand", minimum=0)
    prompt_tokens: int | None = setting(None, "tokens of a prompt", minimum=1)
    new_tokens: int | None = setting(None, "tokens to decode", minimum=2)
    repeats: int | None = setting(None, "measured runs", minimum=1)
    sustained_minutes: float | None = setting(None, "minutes of decoding after them", minimum=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteTable(Config):
    """What stands at the top of a suite."""

    name: str = setting(help="what rows call the suite")
    title: str = setting("", "headline of its report")
    reference: str = setting("", "where the designs' reference speeds come from")
