"""Export of models with the options of PanGu-pi."""

import pytest
import torch

from edgetiny.config.export import ExportConfig
from edgetiny.errors import ConfigError
from edgetiny.export.dry_run import dry_run
from edgetiny.export.plan import plans
from edgetiny.model import load_model
from edgetiny.runtimes import open_runtime

BOTH = {"series_activation": 2, "augmented_shortcut": 3}


@pytest.fixture
def checkpoint(make_checkpoint):
    return make_checkpoint(num_key_value_heads=2, **BOTH)


def parity(checkpoint, artefact):
    """Return the largest difference of the last logits, and the largest logit."""
    tokens = torch.randint(0, 97, (1, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = load_model(checkpoint)(tokens)[:, -1]
    logits = open_runtime(artefact).prefill(tokens.numpy(), torch.tensor([9]).numpy())
    return (torch.from_numpy(logits) - expected).abs().max(), expected.abs().max()


@pytest.mark.parametrize("layout", ["edgetiny", "portable"])
def test_onnx_gives_the_logits_of_the_checkpoint(checkpoint, make_artefact, layout):
    artefact = make_artefact(checkpoint, layout=layout, precision="fp32")
    difference, largest = parity(checkpoint, artefact)
    assert largest > 1
    assert difference < 1e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_executorch_gives_the_logits_of_the_checkpoint(checkpoint, make_artefact):
    pytest.importorskip("executorch")
    artefact = make_artefact(checkpoint, format=("executorch",), precision="fp32")
    difference, _ = parity(checkpoint, artefact)
    assert difference < 1e-3


@pytest.mark.parametrize(
    ("settings", "loader"),
    [({"format": ("gguf",)}, "llama.cpp"), ({"layout": "transformers-js"}, "transformers.js")],
)
def test_programs_with_llamas_block_only_are_refused(checkpoint, tmp_path, settings, loader):
    config = ExportConfig(source=checkpoint.path, out=tmp_path / "out", **settings)
    with pytest.raises(ConfigError, match=f"{loader} has no block"):
        plans(config, checkpoint.config)
    [forecast] = dry_run(config, checkpoint, checkpoint.config).forecasts
    assert f"{loader} has no block" in (forecast.refused or "")
