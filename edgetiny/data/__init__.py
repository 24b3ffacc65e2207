"""Token shards: text as flat files of ids, and the order in which training reads them."""

from edgetiny.data.order import SampleOrder
from edgetiny.data.shards import Shards, Split

__all__ = ["SampleOrder", "Shards", "Split"]
