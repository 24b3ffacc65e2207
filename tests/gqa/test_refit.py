import pytest
import torch

from edgetiny.errors import CheckpointError
from edgetiny.gqa.refit import OutputFit


def fitted(read, wanted, start):
    fit = OutputFit(start, layer=3)
    for part in range(0, len(read), 10):
        fit.add(read[None, part : part + 10], wanted[None, part : part + 10])
    return fit


def test_a_projection_that_made_the_output_is_found():
    torch.manual_seed(0)
    read, truth = torch.randn(400, 12), torch.randn(5, 12)
    fit = fitted(read, read @ truth.T, torch.zeros(5, 12))
    assert fit.error(fit.solve()) < 1e-4 < 0.99 < fit.error(torch.zeros(5, 12))
    assert fit.error(truth) < 1e-9


def test_what_the_text_does_not_show_stays():
    torch.manual_seed(0)
    read, truth, start = torch.randn(400, 12), torch.randn(5, 12), torch.randn(5, 12)
    read[:, 6:] = 0
    solved = fitted(read, read @ truth.T, start).solve()
    torch.testing.assert_close(solved[:, 6:], start[:, 6:])
    torch.testing.assert_close(solved[:, :6], truth[:, :6], atol=0.02, rtol=0)


def test_nothing_to_read_leaves_the_start():
    fit = fitted(torch.zeros(400, 12), torch.ones(400, 5), torch.eye(5, 12))
    assert torch.equal(fit.solve(), torch.eye(5, 12))
    assert fit.error(fit.solve()) == 1


@pytest.mark.parametrize("spoilt", [0, 1])
def test_what_is_not_finite_is_refused_by_its_layer(spoilt):
    texts = [torch.ones(400, 12), torch.ones(400, 5)]
    texts[spoilt][7, 3] = torch.nan
    fit = fitted(*texts, torch.zeros(5, 12))
    for use in (fit.solve, lambda: fit.error(torch.zeros(5, 12))):
        with pytest.raises(CheckpointError, match="layer 3 is not finite"):
            use()
