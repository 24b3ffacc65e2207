import pytest

from edgetiny.evaluate.window import trained_length
from edgetiny.gqa import window_length


@pytest.mark.parametrize("lengths", [(16, 48), (48, 16), (16, 48, 24)])
def test_the_longest_training_says_how_long_windows_are(make_checkpoint, trained_on, lengths):
    checkpoint = make_checkpoint()
    for length in lengths:
        checkpoint = trained_on(checkpoint, length)
    assert trained_length(checkpoint) == window_length(checkpoint) == 48
    beyond = trained_on(checkpoint, 4096)
    assert trained_length(beyond) == window_length(beyond) == 64


def test_what_another_tool_trained_knows_its_whole_context(make_checkpoint, trained_on):
    published = make_checkpoint()
    (published.path / "edgetiny.json").unlink()
    tuned = trained_on(published, 24)
    for checkpoint in (published, tuned, trained_on(tuned, 16)):
        assert trained_length(checkpoint) == window_length(checkpoint) == 64
