from pathlib import Path

import pytest

from edgetiny.artefact import Artefact
from edgetiny.errors import ConfigError
from edgetiny.runtimes import open_runtime


def test_a_format_that_an_artefact_does_not_hold_is_refused(tiny_artefact: Path) -> None:
    with pytest.raises(ConfigError, match="holds no executorch model; it has: onnx"):
        open_runtime(tiny_artefact, runtime="executorch")


def test_what_our_runtimes_have_runs_beside_a_gguf(tiny_checkpoint, make_artefact) -> None:
    pytest.importorskip("gguf")
    artefact = make_artefact(tiny_checkpoint, format=("gguf", "onnx"), precision="fp32")
    assert [model.format for model in Artefact.open(artefact).models] == ["gguf", "onnx"]
    assert open_runtime(artefact).engine.name == "onnxruntime"
    assert Artefact.open(artefact).model().format == "onnx"
