"""How weights and cache of few bits come of text: which rounding is chosen, and that it is said."""

from dataclasses import replace

import pytest

from edgetiny.artefact import Artefact
from edgetiny.config.export import ExportConfig
from edgetiny.console import Reporter
from edgetiny.errors import ConfigError, DataError, EdgetinyError
from edgetiny.export.plan import plans
from edgetiny.export.stage import run

pytest.importorskip("onnxruntime")


class Heard(Reporter):
    """A reporter that keeps what was said."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []
        self.tasks = []

    def task(self, name, total=None):
        self.tasks.append(name)
        return super().task(name, total)

    def say(self, message):
        self.lines.append(message)


@pytest.fixture
def int4(tiny_checkpoint, tmp_path):
    return ExportConfig(source=tiny_checkpoint.path, out=tmp_path / "out", precision="int4")


@pytest.mark.parametrize(
    ("given", "method", "wanted"),
    [
        (None, None, "rtn"),
        ("data", None, "gptq"),
        ("calibration_text", None, "gptq"),
        ("data", "rtn", "rtn"),
        ("data", "hqq", "hqq"),
        (None, "hqq", "hqq"),
    ],
)
def test_text_chooses_gptq_and_an_explicit_method_wins(given, method, wanted, tiny_config):
    settings = {} if given is None else {given: "somewhere"}
    config = ExportConfig(precision="int4", method=method, **settings)
    assert [plan.method for plan in plans(config, tiny_config)] == [wanted]
    eight_bits = plans(replace(config, precision="int8", method=None), tiny_config)
    assert [plan.method for plan in eight_bits] == ["rtn"]


def test_text_that_cannot_be_read_is_missed_before_anything_is_asked(int4, tmp_path):
    heard = Heard()
    with pytest.raises(EdgetinyError, match="typo"):
        run(replace(int4, calibration_text=tmp_path / "typo.txt"), heard)
    short = tmp_path / "short.txt"
    short.write_text("a few words")
    with pytest.raises(DataError, match=r"less than the .* of one window"):
        run(replace(int4, calibration_text=short), heard)
    assert heard.tasks == []


def test_what_was_chosen_is_said_and_in_the_manifest(int4, tiny_text, tmp_path):
    heard = Heard()
    calibrated = run(replace(int4, calibration_text=tiny_text), heard).artefact
    assert [each.method for each in calibrated.models] == ["gptq"]
    assert f"int4 weights are rounded by GPTQ, on the text of {tiny_text}" in heard.lines
    heard = Heard()
    plain = run(replace(int4, out=tmp_path / "plain"), heard).artefact
    assert [each.method for each in plain.models] == ["rtn"]
    assert any("rounded to the nearest; --data" in line for line in heard.lines)
    data = "model.onnx.data"
    assert (calibrated.path / data).read_bytes() != (plain.path / data).read_bytes()


def test_an_explicit_method_that_needs_no_text_does_not_read_any(int4, tiny_text):
    with pytest.raises(ConfigError, match="nothing else here reads them"):
        run(replace(int4, method="rtn", calibration_text=tiny_text))


def test_a_method_is_of_int4(tiny_checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="give --precision int4"):
        run(ExportConfig(source=tiny_checkpoint.path, out=tmp_path / "out", method="rtn"))


def test_gptq_and_an_int8_cache_need_text(int4):
    for settings in ({"method": "gptq"}, {"kv": "int8"}):
        with pytest.raises(ConfigError, match="is calibrated on text"):
            run(replace(int4, **settings))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_calibrated_exports_of_both_batch_classes_are_verified(
    precision, tiny_checkpoint, tiny_text, tmp_path
):
    config = ExportConfig(
        source=tiny_checkpoint.path, out=tmp_path / "out", precision=precision, kv="int8",
        batch=(1, 3), calibration_text=tiny_text,
    )  # fmt: skip
    run(config)
    artefact = Artefact.open(tmp_path / "out")
    assert artefact.verification["passed"]
    assert [(model.batch, model.kv_dtype) for model in artefact.models] == [
        (1, "int8"),
        (3, "int8"),
    ]
