import contextlib

import pytest
import torch

from edgetiny.config.model import GqaConfig, ImportanceConfig, InheritConfig
from edgetiny.console import Reporter
from edgetiny.gqa import run as gqa
from edgetiny.importance.stage import run as importance
from edgetiny.inherit.stage import run as inherit
from edgetiny.measure import torch_threads


class Noting(Reporter):
    """A reporter that notes how many threads there are whenever it is told something."""

    def __init__(self):
        super().__init__(quiet=True)
        self.threads = set()

    def say(self, message):
        self.threads.add(torch.get_num_threads())

    @contextlib.contextmanager
    def task(self, name, total=None):
        self.threads.add(torch.get_num_threads())
        with super().task(name, total) as task:
            yield task


def test_threads_are_put_back_whatever_happens():
    before = torch.get_num_threads()
    with torch_threads(0):
        assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("stage", ["gqa", "importance", "inherit"])
def test_a_stage_runs_with_the_threads_it_is_given(make_checkpoint, data, tmp_path, stage):
    source, before = make_checkpoint().path, torch.get_num_threads()
    given = {"source": source, "threads": before + 1}
    text = {"data": data, "calibration_tokens": 64}
    run, config = {
        "gqa": lambda: (gqa, GqaConfig(groups=2, out=tmp_path / "out", **given)),
        "importance": lambda: (importance, ImportanceConfig(layers=True, **given, **text)),
        "inherit": lambda: (
            inherit,
            InheritConfig(num_hidden_layers=1, method="l1", out=tmp_path / "out", **given, **text),
        ),
    }[stage]()
    reporter = Noting()
    run(config, reporter)
    # What is said at the very end may come after the work.
    assert before + 1 in reporter.threads <= {before, before + 1}
    assert torch.get_num_threads() == before
