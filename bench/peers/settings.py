"""What is measured: every engine at the settings that its own documents or our trials recommend.

A setting is one row of a cell (model, batch, bits). Settings of one `conversion` share their files.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BITS = (16, 8, 4)
BATCHES = (1, 20)
_PRECISION_BITS = {"fp32": 16, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}
# One scale for every key and value: random weights need no better one, and it costs the same time.
_KV_SCALE = 3.0 / 127.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One engine, one way to convert for it, one way to run it.

    bits: 16 stands for fp32, fp16 and bf16. padded: takes the model with an FFN filled up with
    zeros.
    files: what counts as the model on disk, as patterns. packages: whose versions are recorded.
    """

    name: str
    engine: str
    environment: str
    bits: int
    conversion: str
    convert: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    batches: tuple[int, ...] = BATCHES
    padded: bool = False
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    is_ours: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Everything that the engine's two functions read."""
        return dict(self.convert) | dict(self.run)

    @property
    def identity(self) -> str:
        """A hash of everything that decides what is measured under this name."""
        facts = [self.engine, self.environment, self.conversion, self.options, self.padded]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def peer_settings(llama_source: Path, llama_build: Path) -> list[Setting]:
    """Return every peer's settings, of all bits and batches."""
    return [
        *_genai("fp32", 16, None),
        *(each for block in (32, 128) for each in _genai("int8", 8, block)),
        *_genai("int8", 8, 128, kv8=True),
        *(each for block in (32, 128) for each in _genai("int4", 4, block)),
        *_genai("int4", 4, 128, kv8=True),
        *_llama(llama_source, llama_build),
        *_openvino("fp16", 16),
        *_openvino("int8", 8),
        *_openvino("int4", 4),
        *_optimum(),
        *_executorch(),
        *_transformers(),
    ]


def ours_setting(given: str) -> Setting:
    """Return the row of `NAME=RECIPE.toml`; its bits and batches are the recipe's own.

    Raises ValueError if that is no name and recipe, or the recipe is of no known precision.
    """
    name, _, file = given.partition("=")
    if not name or not file:
        raise ValueError(f"--ours takes NAME=RECIPE.toml, not {given!r}")
    recipe = Path(file)
    content = recipe.read_bytes()
    tables = tomllib.loads(content.decode())
    export = tables.get("export", {})
    precision = export.get("precision", "int8")
    if precision not in _PRECISION_BITS:
        raise ValueError(f"{recipe}: precision {precision!r} is none of {list(_PRECISION_BITS)}")
    batches = export.get("batch") or tables.get("bench", {}).get("batch") or BATCHES
    digest = hashlib.sha256(content).hexdigest()[:12]
    return Setting(
        name=f"edgetiny {name} ({digest})",
        engine="edgetiny_runtime",
        environment="edgetiny",
        bits=_PRECISION_BITS[precision],
        conversion=f"edgetiny-{name}-{digest}",
        convert={
            "recipe": str(recipe.resolve()),
            "sha256": digest,
            "calibrated": export.get("kv") == "int8" or export.get("method") == "gptq",
        },
        batches=tuple(int(batch) for batch in batches),
        files=("artefact/*.onnx", "artefact/*.data", "artefact/*.onnx_data", "artefact/*.pte"),
        packages=("torch", "onnxruntime", "executorch", "numpy"),
        is_ours=True,
    )


REFERENCE = Setting(
    name="reference program",
    engine="reference",
    environment="edgetiny",
    bits=0,
    conversion="reference",
    packages=("numpy",),
)


def _genai(precision: str, bits: int, block: int | None, kv8: bool = False) -> list[Setting]:
    label = precision if block is None else f"{precision} block {block}"
    extra: dict[str, Any] = {} if block is None else {"shared_embeddings": "true"}
    if kv8:
        label += ", int8 KV"
        extra["kv_cache_quant_scheme"] = "int8_per_tensor"
    return [
        Setting(
            name=f"onnxruntime-genai {label}, {shown}",
            engine="genai",
            environment="genai",
            bits=bits,
            conversion=f"genai-{label}".replace(", ", "-").replace(" ", "-"),
            convert={
                "precision": precision,
                "block_size": block,
                "extra": extra,
                "kv_scale": _KV_SCALE if kv8 else None,
            },
            run={"loop": loop},
            files=("*.onnx", "*.onnx.data"),
            packages=("onnxruntime-genai", "onnxruntime", "transformers"),
        )
        for loop, shown in (("generator", "its generator"), ("binding", "bound graph"))
    ]


def _llama(source: Path, build: Path) -> list[Setting]:
    return [
        Setting(
            name=f"llama.cpp {kind}",
            engine="llama_cpp",
            environment="llamacpp",
            bits=bits,
            conversion=f"llamacpp-{kind}",
            convert={"type": kind, "source": str(source), "build": str(build)},
            run={"flags": []},
            padded=True,
            files=("model.gguf",),
            packages=("gguf",),
        )
        for kind, bits in (("F16", 16), ("Q8_0", 8), ("Q4_0", 4))
    ]


def _openvino(weights: str, bits: int) -> list[Setting]:
    convert: dict[str, Any] = {"weights": weights}
    label = weights
    if weights == "int4":
        convert |= {"group_size": 128, "sym": True}
        label = "int4 group 128"
    return [
        Setting(
            name=f"OpenVINO {label}, {shown}",
            engine="openvino_llm",
            environment="openvino",
            bits=bits,
            conversion=f"openvino-{weights}",
            convert=convert,
            run={"loop": loop, "hints": {}},
            padded=True,
            files=("openvino_model.xml", "openvino_model.bin"),
            packages=("openvino", "openvino-genai", "optimum-intel", "nncf", "transformers"),
        )
        for loop, shown in (("pipeline", "its pipeline"), ("request", "infer requests"))
    ]


def _optimum() -> list[Setting]:
    return [
        Setting(
            name=f"optimum ORTModel {precision}",
            engine="optimum_ort",
            environment="optimum",
            bits=bits,
            conversion=f"optimum-{precision}",
            convert={"precision": precision},
            files=("*.onnx", "*.onnx.data", "*.onnx_data"),
            packages=("optimum", "optimum-onnx", "onnxruntime", "transformers"),
        )
        for precision, bits in (("fp32", 16), ("int8", 8))
    ]


def _executorch() -> list[Setting]:
    return [
        Setting(
            name=f"ExecuTorch 8da4w group 128, {shown}",
            engine="executorch_llm",
            environment="executorch",
            bits=4,
            conversion=f"executorch-8da4w-b{batch}",
            convert={"qmode": "8da4w", "group_size": 128, "embedding": "4,32", "batch": batch},
            batches=(batch,),
            padded=True,
            files=("model.pte",),
            packages=("executorch", "torchao", "torch"),
        )
        for batch, shown in ((1, "its exporter"), (20, "static batch"))
    ]


def _transformers() -> list[Setting]:
    rows = (("float32", "dynamic"), ("bfloat16", "dynamic"), ("bfloat16", "static"))
    return [
        Setting(
            name=f"transformers {dtype} {'eager' if cache == 'dynamic' else 'static, compiled'}",
            engine="transformers_torch",
            environment="transformers",
            bits=16,
            conversion=f"transformers-{dtype}",
            convert={"dtype": dtype},
            run={"cache": cache},
            files=("*.safetensors",),
            packages=("transformers", "torch"),
        )
        for dtype, cache in rows
    ]
