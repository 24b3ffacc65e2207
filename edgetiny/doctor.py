"""What is usable on this machine, and what to install for the rest.

Needs none of the optional packages. Requirements are those of edgetiny's own metadata.
"""

import importlib
import importlib.metadata
import platform
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from edgetiny import __version__
from edgetiny.config.demo import DoctorConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.device import cpu_info, cpu_model
from edgetiny.measure import available_bytes, cores, llc_bytes, ram_bytes

CORE = "core"
# Extras that only gather others; a build tool may expand the reference to edgetiny in them.
GATHERING = {"all", "dev"}

# What the int8 and bf16 kernels of torch, onnxruntime and XNNPACK choose by, as Linux spells it.
_CPU_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
    "asimd": "NEON",
    "asimddp": "dot product",
    "asimdhp": "FP16 arithmetic",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
}
# What an artefact of `edgetiny export` runs on.
_ONNX_OPERATORS = (
    "MatMulNBits",
    "GroupQueryAttention",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "GatherBlockQuantized",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One requirement and what was found of it. extra: `core`, or the extra that brings it."""

    name: str
    extra: str
    needed: str
    installed: str | None
    state: Literal["ok", "missing", "other version"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """Something a stage can run on. detail: which, or why not."""

    name: str
    usable: bool
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorResult:
    """The state of the installation and of the machine."""

    packages: tuple[Package, ...]
    kernels: tuple[Kernel, ...]
    machine: dict[str, Any]

    @property
    def extras(self) -> dict[str, bool]:
        """Whether every package of each extra is there in a fitting version."""
        usable: dict[str, bool] = {}
        for package in self.packages:
            usable[package.extra] = usable.get(package.extra, True) and package.state == "ok"
        return usable

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints."""
        return {
            "edgetiny": __version__,
            "python": platform.python_version(),
            "machine": self.machine,
            "extras": [
                {"extra": extra, "usable": usable, "install": _advice(extra, usable=usable)}
                for extra, usable in self.extras.items()
            ],
            "packages": [
                {
                    "package": package.name,
                    "extra": package.extra,
                    "needed": package.needed,
                    "installed": package.installed,
                    "state": package.state,
                }
                for package in self.packages
            ],
            "kernels": [
                {"kernel": kernel.name, "usable": kernel.usable, "detail": kernel.detail}
                for kernel in self.kernels
            ],
        }


def run(config: DoctorConfig, reporter: Reporter = QUIET) -> DoctorResult:
    """Look at packages, kernels and machine. What is optional and absent is not an error."""
    packages = tuple(
        check_package(requirement, extra)
        for requirement, extra in split_by_extra(own_requirements())
    )
    reporter.say("loading torch and onnxruntime to ask for their kernels")
    return DoctorResult(
        packages=packages,
        kernels=(torch_cpu(), torch_cuda(), onnx_runtime(), android_bridge()),
        machine=_machine(),
    )


def own_requirements() -> list[str]:
    """Return edgetiny's requirements as its metadata lists them, extras as `extra == "..."` marks.

    A checkout that was not installed has no metadata; its pyproject.toml is the same list.
    """
    try:
        return importlib.metadata.requires("edgetiny") or []
    except importlib.metadata.PackageNotFoundError:
        pass
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    if not pyproject.is_file():
        return []
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    marked = [
        f'{line} ; extra == "{extra}"'
        for extra, lines in project["optional-dependencies"].items()
        for line in lines
    ]
    return [*project["dependencies"], *marked]


def split_by_extra(lines: list[str]) -> Iterator[tuple[Requirement, str]]:
    """Yield each requirement that holds on this machine, with `core` or the extra that brings it.

    Extras that only gather others (`all`, `dev`, or any that names edgetiny) are left out.
    """
    requirements = [Requirement(line) for line in lines]
    extras = {extra: None for each in requirements if (extra := _extra_of(each)) != CORE}
    gathering = GATHERING | {_extra_of(each) for each in requirements if each.name == "edgetiny"}
    for extra in (CORE, *(name for name in extras if name not in gathering)):
        for requirement in requirements:
            marker = requirement.marker
            holds = marker is None or marker.evaluate({"extra": extra})
            if _extra_of(requirement) == extra and holds:
                yield requirement, extra


def check_package(requirement: Requirement, extra: str) -> Package:
    """Compare a requirement with the installed version; nothing is imported."""
    try:
        installed = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        installed = None
    state: Literal["ok", "missing", "other version"] = "missing"
    if installed is not None:
        fits = requirement.specifier.contains(installed, prereleases=True)
        state = "ok" if fits else "other version"
    return Package(
        name=requirement.name,
        extra=extra,
        needed=str(requirement.specifier) or "any",
        installed=installed,
        state=state,
    )


def torch_cpu() -> Kernel:
    """Say which instruction set torch's CPU kernels were chosen for."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Kernel(name="torch cpu", usable=False, detail=_reason(error))
    detail = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    return Kernel(name="torch cpu", usable=True, detail=detail)


def torch_cuda() -> Kernel:
    """Name the CUDA devices that torch can use."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Kernel(name="torch cuda", usable=False, detail=_reason(error))
    if not torch.backends.cuda.is_built():
        detail = "this torch was built without CUDA"
        return Kernel(name="torch cuda", usable=False, detail=detail)
    if not torch.cuda.is_available():
        detail = "torch has CUDA, but finds no device or driver"
        return Kernel(name="torch cuda", usable=False, detail=detail)
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Kernel(name="torch cuda", usable=True, detail=", ".join(names))


def onnx_runtime() -> Kernel:
    """Say whether onnxruntime holds the kernels that exported artefacts run on."""
    name = "onnxruntime"
    try:
        ort = importlib.import_module("onnxruntime")
        state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    except (ImportError, OSError) as error:
        return Kernel(name=name, usable=False, detail=_reason(error))
    known = {
        kernel.op_name
        for kernel in state.get_all_opkernel_def()
        if kernel.provider == "CPUExecutionProvider"
    }
    absent = [operator for operator in _ONNX_OPERATORS if operator not in known]
    if absent:
        return Kernel(name=name, usable=False, detail=f"lacks {', '.join(absent)} on the CPU")
    providers = ", ".join(
        provider.removesuffix("ExecutionProvider") for provider in ort.get_available_providers()
    )
    detail = f"providers {providers}; has {', '.join(_ONNX_OPERATORS)}"
    return Kernel(name=name, usable=True, detail=detail)


def android_bridge() -> Kernel:
    """Say where adb is, through which phones are reached."""
    path = shutil.which("adb")
    return Kernel(name="adb", usable=path is not None, detail=path or "not on PATH")


def cpu_features() -> list[str]:
    """Return the instruction sets of this CPU that matter to matrix products."""
    info = cpu_info()
    flags = set(f"{info.get('flags', '')} {info.get('Features', '')}".split())
    return [name for flag, name in _CPU_FEATURES.items() if flag in flags]


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": cores(),
        "cpu_features": ", ".join(cpu_features()) or "not known",
        "llc_bytes": llc_bytes(),
        "ram_bytes": ram_bytes(),
        "free_ram_bytes": available_bytes(),
        "free_disk_bytes_here": shutil.disk_usage(Path.cwd()).free,
    }


def _extra_of(requirement: Requirement) -> str:
    """Return the extra that a requirement's marker names, as in `onnx>=1.19; extra == "onnx"`."""
    _, found, rest = str(requirement.marker or "").partition('extra == "')
    return rest.partition('"')[0] if found else CORE


def _advice(extra: str, *, usable: bool) -> str:
    if usable:
        return ""
    wanted = "edgetiny" if extra == CORE else f"edgetiny[{extra}]"
    return f"pip install '{wanted}'"


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    return f"does not load: {' '.join(str(error).split())}"
