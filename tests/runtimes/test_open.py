from pathlib import Path

import pytest

from edgetiny.errors import ConfigError
from edgetiny.runtimes import open_runtime


def test_a_format_that_an_artefact_does_not_hold_is_refused(tiny_artefact: Path) -> None:
    with pytest.raises(ConfigError, match="holds no executorch model; it has: onnx"):
        open_runtime(tiny_artefact, runtime="executorch")
