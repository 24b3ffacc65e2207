"""A virtual environment for each peer, and llama.cpp from its Python binding's source archive."""

import hashlib
import os
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
LLAMA_ARCHIVE = "llama-cpp-python==0.3.36"
_STAMP = "requirements.sha256"
# Whatever brings it, it does not load beside this torch, and transformers then refuses to import.
_UNWANTED = ("torchvision",)
# What a CPU build of the two programs needs; the rest at llama.cpp's own defaults.
_CMAKE = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_BUILD_COMMON=ON"),
    *("-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_TESTS=OFF"),
    *("-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_BUILD_MTMD=OFF"),
)
_PROGRAMS = ("llama-batched-bench", "llama-quantize")
# Native code has AMX where the processor does, and its kernels died there (illegal instruction).
_OF_FLAGS = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "bmi2": "BMI2",
    "avx512f": "AVX512",
    "avx512_vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
}

Say = Callable[[str], None]


def make_environment(name: str, work: Path, say: Say) -> Path:
    """Return the python of a peer's environment; make it first, or again if its pins changed."""
    pins = REQUIREMENTS / f"{name}.txt"
    folder = work / "venvs" / name
    python = folder / "bin/python"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    stamp = folder / _STAMP
    if stamp.is_file() and stamp.read_text(encoding="ascii") == digest:
        return python
    say(f"installing {pins.name} into {folder}")
    if not python.exists():
        venv.create(folder, with_pip=True)
    _logged([str(python), "-m", "pip", "install", "-q", "-r", str(pins)], work, f"venv-{name}")
    _logged([str(python), "-m", "pip", "uninstall", "-qy", *_UNWANTED], work, f"venv-{name}")
    stamp.write_text(digest, encoding="ascii")
    return python


def llama_tree(work: Path) -> Path:
    """Return where llama.cpp's source lies, or will."""
    archive = LLAMA_ARCHIVE.replace("-", "_").replace("==", "-")
    return work / "llama.cpp" / archive / "vendor/llama.cpp"


def llama_build(work: Path) -> Path:
    """Return where llama.cpp is built: another folder for other options."""
    options = " ".join((*_CMAKE, *_for_this_processor()))
    return work / "llama.cpp" / f"build-{hashlib.sha256(options.encode()).hexdigest()[:8]}"


def make_llama(work: Path, build: Path | None, say: Say) -> Path:
    """Return a build tree of llama.cpp with its two programs; build it unless one was given."""
    source = llama_tree(work)
    home = work / "llama.cpp"
    home.mkdir(parents=True, exist_ok=True)
    if not source.exists():
        say(f"fetching {LLAMA_ARCHIVE}")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
        _logged([*command, "-d", str(home), LLAMA_ARCHIVE], work, "llama")
        with tarfile.open(next(home.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(home, filter="data")
    if build is not None:
        return build
    build = llama_build(work)
    if not all((build / "bin" / program).exists() for program in _PROGRAMS):
        say("building llama.cpp (about five minutes on two idle cores)")
        options = ["-S", str(source), "-B", str(build), *_CMAKE, *_for_this_processor()]
        _logged(["cmake", *options], work, "llama")
        jobs = str(os.cpu_count() or 1)
        targets = ["--parallel", jobs, "--target", *_PROGRAMS]
        _logged(["cmake", "--build", str(build), *targets], work, "llama")
    return build


def _for_this_processor() -> list[str]:
    return processor_options(Path("/proc/cpuinfo").read_text(encoding="utf-8"))


def processor_options(cpuinfo: str) -> list[str]:
    """Return the options that build ggml for a processor: native code, AMX left out."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    flags = next((set(value.split()) for name, _, value in lines if name.strip() == "flags"), set())
    if "amx_tile" not in flags:
        return ["-DGGML_NATIVE=ON"]
    options = [f"-DGGML_{name}=ON" for flag, name in _OF_FLAGS.items() if flag in flags]
    return ["-DGGML_NATIVE=OFF", *options]


def _logged(command: list[str], work: Path, name: str) -> None:
    """Run a command with its output in `logs/`; raise CalledProcessError if it fails."""
    logs = work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{name}.log").open("ab") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
