"""From a folder, or a shape alone, to the engine that runs it."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from edgetiny.artefact import is_artefact, models_of, read_manifest, runnable_format
from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.cost import Precision
from edgetiny.errors import ConfigError
from edgetiny.init import RandomTensors
from edgetiny.model import build_model
from edgetiny.runtimes.eager import EagerRuntime
from edgetiny.runtimes.graph import GraphRuntime
from edgetiny.runtimes.precision import DTYPES, check_device
from edgetiny.runtimes.protocol import Runtime

RuntimeName = Literal["eager", "graph", "onnx", "executorch"]

_RANDOM_STD = 0.02


def open_runtime(
    path: Path | str,
    *,
    runtime: RuntimeName | None = None,
    context: int | None = None,
    precision: Precision | None = None,
    threads: int = 0,
    device: str = "cpu",
    max_batch: int | None = None,
) -> Runtime:
    """Load an artefact (it has a `manifest.json`) into its engine, a checkpoint into torch.

    runtime: if None, `eager` for a checkpoint, for an artefact the format of its first model that
    has one: GGUF is llama.cpp's.
    precision, device: of a checkpoint only: an artefact's were settled at its export.
    precision: of weights, cache and arithmetic; fp32 if None. int8 is the graph runtime's.
    threads: CPU threads; 0 means one per core. max_batch: as for `GraphRuntime`; of an artefact
    with several plans it picks the one for so many sequences.
    Raises ConfigError for a runtime that does not run such a folder or such weights, DeviceError
    for a device that is not there.
    """
    if is_artefact(Path(path)):
        return _open_artefact(Path(path), runtime, context, precision, threads, device, max_batch)
    if runtime in ("onnx", "executorch"):
        raise ConfigError(
            f"{path} is a checkpoint: the {runtime} runtime runs artefacts; export it first, or"
            " give --runtime eager or --runtime graph"
        )
    checkpoint = Checkpoint.open(path)
    return _over_tensors(
        checkpoint.config,
        checkpoint.state_dict(),
        checkpoint.path,
        runtime=runtime or "eager",
        context=context,
        precision=precision or "fp32",
        threads=threads,
        device=device,
        max_batch=max_batch,
    )


def open_random(
    config: ModelConfig,
    *,
    runtime: Literal["eager", "graph"] = "eager",
    precision: Precision = "fp32",
    device: str = "cpu",
    context: int | None = None,
    max_batch: int | None = None,
    threads: int = 0,
    name: str = "random",
) -> Runtime:
    """Return an engine over random weights (normal, deviation 0.02) of a shape.

    The same weights for every runtime, drawn one tensor at a time. name: what stands for its path.
    Raises as `open_runtime` does.
    """
    return _over_tensors(
        config,
        RandomTensors(config, std=_RANDOM_STD, seed=0),
        Path(name),
        runtime=runtime,
        context=context,
        precision=precision,
        threads=threads,
        device=device,
        max_batch=max_batch,
    )


def _over_tensors(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    runtime: RuntimeName,
    context: int | None,
    precision: Precision,
    threads: int,
    device: str,
    max_batch: int | None,
) -> Runtime:
    check_device(device, precision)
    if runtime == "graph":
        return GraphRuntime(
            config,
            tensors,
            path,
            precision=precision,
            device=device,
            context=context,
            max_batch=max_batch,
            threads=threads,
        )
    if precision == "int8":
        raise ConfigError(
            "the eager runtime has no int8 weights; give --runtime graph, or another --precision"
        )
    model = build_model(config, tensors, DTYPES[precision], device)
    return EagerRuntime(model, path, context=context, threads=threads)


def _open_artefact(
    path: Path,
    runtime: RuntimeName | None,
    context: int | None,
    precision: Precision | None,
    threads: int,
    device: str,
    max_batch: int | None,
) -> Runtime:
    models = models_of(path, read_manifest(path))
    usual = runnable_format(models)
    if usual is None:
        raise ConfigError(
            f"{path} holds a GGUF file only, which llama.cpp runs; export --format onnx too"
        )
    if runtime in ("eager", "graph"):
        raise ConfigError(
            f"{path} is an artefact: it runs in the {usual} runtime; --runtime {runtime} takes"
            " the checkpoint that it was exported from"
        )
    if precision is not None or device != "cpu":
        raise ConfigError(
            f"{path} is an artefact: its precision was settled at export, and it runs on the CPU"
        )
    # Before an engine is imported, which takes seconds.
    formats = dict.fromkeys(model.format for model in models)
    if runtime is not None and runtime not in formats:
        raise ConfigError(f"{path} holds no {runtime} model; it has: {', '.join(formats)}")
    if (runtime or usual) == "executorch":
        require_executorch()
        from edgetiny.runtimes.executorch_runtime import ExecutorchRuntime

        return ExecutorchRuntime.load(path, context=context, threads=threads, batch=max_batch or 1)
    from edgetiny.runtimes.ort import OrtRuntime

    return OrtRuntime.load(path, context=context, threads=threads, batch=max_batch or 1)


def require_executorch() -> None:
    """Raise ConfigError, with the command that mends it, if executorch or torchao is missing."""
    for package in ("executorch", "torchao"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"the executorch format needs {package}; run: pip install 'edgetiny[executorch]'"
            )
