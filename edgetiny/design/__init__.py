"""Which shape: a family for a budget of parameters, a design that keeps a promise, presets."""

from edgetiny.design.file import Design, design_of_table, read_design, to_toml
from edgetiny.design.presets import PRESETS, open_design, preset

__all__ = [
    "PRESETS",
    "Design",
    "design_of_table",
    "open_design",
    "preset",
    "read_design",
    "to_toml",
]
