"""Speed of a model on this machine, beside the bound of the machine, as rows of a result."""

from edgetiny.bench.result import SCHEMA_VERSION, BenchResult, read_result
from edgetiny.bench.stage import run

__all__ = ["SCHEMA_VERSION", "BenchResult", "read_result", "run"]
