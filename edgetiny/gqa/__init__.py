"""Multi-head to grouped-query attention: query heads come to share key/value heads."""

from edgetiny.gqa.pool import to_gqa
from edgetiny.gqa.stage import run

__all__ = ["run", "to_gqa"]
