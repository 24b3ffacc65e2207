"""Multi-head to grouped-query attention: query heads come to share key/value heads."""

from edgetiny.gqa.convert import Merge, convert
from edgetiny.gqa.pool import to_gqa
from edgetiny.gqa.stage import run, window_length

__all__ = ["Merge", "convert", "run", "to_gqa", "window_length"]
