"""Settings of the stages: one frozen dataclass each, from flags, a TOML recipe and defaults."""

from edgetiny.config.base import Config, setting

__all__ = ["Config", "setting"]
