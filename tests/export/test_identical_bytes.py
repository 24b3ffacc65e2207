"""Identical inputs give identical bytes, whatever the format and the text that calibrated."""

import pytest

from edgetiny.config.export import ExportConfig
from edgetiny.export.stage import run

pytest.importorskip("onnxruntime")

# Allowed to differ: what was measured, and the card, which is named after its folder.
_MEASURED = {"verification.json", "README.md"}


@pytest.mark.parametrize(
    "settings",
    [
        {"layout": "portable", "precision": "fp16"},
        {"layout": "transformers-js", "precision": "int8"},
        {"format": ("gguf",), "precision": "int4"},
        {"precision": "int4", "kv": "int8", "batch": (1, 3), "calibrated": True},
        {"precision": "fp32", "gqa_groups": 1, "gqa_pool": "aligned", "calibrated": True},
    ],
    ids=["portable", "browser", "gguf", "calibrated", "merged"],
)
def test_two_exports_are_the_same_files(settings, tiny_checkpoint, tiny_text, tmp_path):
    settings = dict(settings)
    if settings.pop("calibrated", False):
        settings["calibration_text"] = tiny_text
    if "gguf" in settings.get("format", ()):
        pytest.importorskip("gguf")
    made = []
    for name in ("one", "other"):
        run(ExportConfig(source=tiny_checkpoint.path, out=tmp_path / name, **settings))
        made.append(
            {
                path.relative_to(tmp_path / name): path.read_bytes()
                for path in (tmp_path / name).rglob("*")
                if path.is_file() and path.name not in _MEASURED
            }
        )
    assert made[0] == made[1]
    assert len(made[0]) > 4
