"""`edgetiny design`: a shape on paper, or with --sweep a family of them trained and measured."""

from edgetiny.config.design import DesignConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.design import stage as design
from edgetiny.design.stage import DesignResult
from edgetiny.sweep import stage as sweep
from edgetiny.sweep.result import SweepResult


def run(config: DesignConfig, reporter: Reporter = QUIET) -> DesignResult | SweepResult:
    """Return what was chosen, or what training showed. Raises what the two raise."""
    if config.sweep is None:
        return design.run(config, reporter)
    return sweep.run(config, reporter)
