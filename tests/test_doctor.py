import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from edgetiny.config.demo import DoctorConfig
from edgetiny.doctor import (
    DoctorResult,
    Kernel,
    check_package,
    cpu_features,
    own_requirements,
    run,
    split_by_extra,
)


def test_everything_installed_for_these_tests_is_found() -> None:
    result = run(DoctorConfig())
    assert result.extras["core"]
    states = {package.name: package.state for package in result.packages}
    assert states["torch"] == "ok"
    assert {kernel.name: kernel.usable for kernel in result.kernels}["torch cpu"]
    json.dumps(result.summary(), allow_nan=False)


def test_extras_are_those_of_the_metadata_without_the_gathering_ones() -> None:
    extras = {extra for _, extra in split_by_extra(own_requirements())}
    assert {"core", "onnx", "executorch", "optimum", "eval", "plot"} <= extras
    assert extras.isdisjoint({"all", "dev"})


def test_markers_decide_what_is_needed_here() -> None:
    lines = [
        "here",
        "elsewhere ; python_version < '3'",
        'first>=1 ; extra == "some"',
        "second ; python_version >= '3' and extra == 'some'",
        'edgetiny[some] ; extra == "everything"',
    ]
    found = [(requirement.name, extra) for requirement, extra in split_by_extra(lines)]
    assert found == [("here", "core"), ("first", "some"), ("second", "some")]


def test_a_package_is_ok_missing_or_of_another_version() -> None:
    installed = version("numpy")
    for line, state in (
        (f"numpy=={installed}", "ok"),
        (f"numpy>{installed}", "other version"),
        ("a-name-that-nobody-took>=1", "missing"),
    ):
        assert check_package(Requirement(line), "core").state == state


def test_a_missing_extra_comes_with_its_command() -> None:
    package = check_package(Requirement("a-name-that-nobody-took>=1"), "onnx")
    result = DoctorResult(packages=(package,), kernels=(), machine={})
    [row] = result.summary()["extras"]
    assert row == {"extra": "onnx", "usable": False, "install": "pip install 'edgetiny[onnx]'"}


@pytest.mark.parametrize(
    ("module", "kernel"), [("torch", "torch cpu"), ("onnxruntime", "onnxruntime")]
)
def test_a_package_that_cannot_be_imported_is_a_row(module: str, kernel: str) -> None:
    code = (
        f"import sys, json; sys.modules[{module!r}] = None\n"
        "from edgetiny.config.demo import DoctorConfig\n"
        "from edgetiny.doctor import run\n"
        "print(json.dumps(run(DoctorConfig()).summary()['kernels']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = {row["kernel"]: row for row in json.loads(done.stdout)}
    assert not rows[kernel]["usable"]
    assert rows[kernel]["detail"] == f"{module} is not installed"


def test_features_and_kernels_are_named_once() -> None:
    assert len(set(cpu_features())) == len(cpu_features())
    names = [kernel.name for kernel in run(DoctorConfig()).kernels]
    assert len(set(names)) == len(names)
    assert Kernel(name="a", usable=False, detail="b") != Kernel(name="a", usable=True, detail="b")
