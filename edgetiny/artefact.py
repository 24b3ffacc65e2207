"""An exported artefact: a folder whose `manifest.json` names and hashes every file in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.checkpoint import ModelConfig
from edgetiny.errors import ArtefactError, ConfigError
from edgetiny.files import read_json, sha256_file

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
# Written after the manifest, with what was measured: allowed to differ between machines.
VERIFICATION = "verification.json"
CARD = "README.md"
UNHASHED = (MANIFEST, VERIFICATION, CARD)
# Where sums of unsigned times signed bytes overflow, this entry of an onnxruntime session makes
# weights unsigned, whose sums have room. Elsewhere it may make them unsigned too: with AMX that
# takes half the speed.
EXACT_SUMS = ("session.x64quantprecision", "1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFile:
    """One model of an artefact: a graph, program or file with its weights.

    files: relative to the artefact, the one to load first. batch: the class it was planned for.
    max_batch: sequences it takes together; None is any. verified: whether it was run.
    facts: what only its format has. method: how weights of four bits were rounded.
    """

    format: str
    layout: str
    precision: str
    kernel: str | None
    block_size: int | None
    kv_dtype: str
    compute_dtype: str
    batch: int
    max_batch: int | None
    context: int
    target: str
    verified: bool
    loaders: tuple[str, ...]
    files: tuple[str, ...]
    nodes: Mapping[str, int]
    facts: Mapping[str, Any]
    method: str | None = None

    @property
    def name(self) -> str:
        """How messages call it: the path of what is loaded first."""
        return self.files[0]


class Artefact:
    """An artefact folder, opened: every file is as the manifest says."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], config: ModelConfig) -> None:
        self.path = path
        self.manifest = manifest
        self.config = config
        self.models = models_of(path, manifest)

    @classmethod
    def open(cls, path: Path) -> "Artefact":
        """Open a folder and compare each file with its hash.

        Raises ArtefactError for a missing folder or manifest, or a file that is missing or changed.
        """
        manifest = read_manifest(path)
        for name, facts in manifest["files"].items():
            _check_file(path / name, facts)
        raw = read_json(path / "config.json", error=ArtefactError)
        return cls(path, manifest, ModelConfig.from_hf(raw))

    def model(self, format: str | None = None, batch: int = 1) -> ModelFile:
        """Return the model of a format (the first one's if None) for a number of sequences.

        Raises ConfigError, naming what there is.
        """
        return pick(self.models, self.path, format, batch)

    @property
    def verification(self) -> dict[str, Any]:
        """What `verification.json` measured; empty if the artefact was not verified."""
        path = self.path / VERIFICATION
        if not path.exists():
            return {}
        return read_json(path, schema_version=SCHEMA_VERSION, error=ArtefactError)

    @property
    def size_bytes(self) -> int:
        """Bytes of every file that the manifest names."""
        return sum(facts["bytes"] for facts in self.manifest["files"].values())


def is_artefact(path: Path) -> bool:
    """Return whether a folder was written by export rather than by a stage before it."""
    return (path / MANIFEST).is_file()


def read_manifest(path: Path) -> dict[str, Any]:
    """Return an artefact's manifest; files are not looked at.

    Raises ArtefactError if there is none, or it is damaged or of a newer schema.
    """
    if not path.is_dir():
        raise ArtefactError(f"artefact {path} is not a folder; export writes one")
    manifest = read_json(path / MANIFEST, schema_version=SCHEMA_VERSION, error=ArtefactError)
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise ArtefactError(f"{path / MANIFEST} lists no files; export the artefact again")
    for name, facts in files.items():
        if not isinstance(facts, dict) or not {"bytes", "sha256"} <= facts.keys():
            raise ArtefactError(
                f"{path / MANIFEST} lacks the size or the hash of {name}; export the artefact again"
            )
    return manifest


def models_of(path: Path, manifest: Mapping[str, Any]) -> list[ModelFile]:
    """Return the models that a manifest lists, of any schema version so far.

    Raises ArtefactError if there is none, a key is missing, or a file of one is without a hash.
    """
    models = _models_of(path, manifest)
    unhashed = (name for model in models for name in model.files if name not in manifest["files"])
    missing = "a model" if not models else next(unhashed, None)
    if missing is not None:
        raise ArtefactError(f"{path / MANIFEST} does not list {missing}; export the artefact again")
    return models


def runnable_format(models: Sequence[ModelFile]) -> str | None:
    """Return the format of the first model that a runtime of ours has; None if llama.cpp alone."""
    return next((model.format for model in models if model.format != "gguf"), None)


def _models_of(path: Path, manifest: Mapping[str, Any]) -> list[ModelFile]:
    try:
        rows = manifest.get("models", [])
        if manifest["schema_version"] == 1:
            rows = [_row_of_version_1(manifest)]
        return [
            ModelFile(
                **row
                | {
                    "files": tuple(row["files"]),
                    "loaders": tuple(row["loaders"]),
                }
            )
            for row in rows
        ]
    except (KeyError, TypeError) as error:
        raise ArtefactError(
            f"{path / MANIFEST} lacks or does not know a key ({error}); export the artefact again"
        ) from error


def pick(models: list[ModelFile], path: Path, format: str | None, batch: int) -> ModelFile:
    """Return the model of a format whose batch class is the largest that `batch` reaches.

    format: `runnable_format` if None, else GGUF. Raises ConfigError if there is no such model.
    """
    wanted = format or runnable_format(models) or "gguf"
    found = [model for model in models if model.format == wanted]
    fitting = [model for model in found if model.max_batch is None or model.max_batch >= batch]
    if not fitting:
        has = ", ".join(
            f"{model.format} (batch {model.batch if model.max_batch else 'any'})"
            for model in models
        )
        raise ConfigError(
            f"{path} holds no {wanted} model for {batch} sequences together; it has: {has}"
        )
    reached = [model for model in fitting if model.batch <= batch]
    return max(reached, key=_batch) if reached else min(fitting, key=_batch)


def _batch(model: ModelFile) -> int:
    return model.batch


def _row_of_version_1(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the one model of an artefact made before there could be several."""
    return {
        "format": "onnx",
        "layout": "portable",
        "precision": manifest["precision"],
        "kernel": "weight_only" if manifest["precision"] == "int8" else None,
        "block_size": manifest.get("block_size"),
        "kv_dtype": manifest["kv_dtype"],
        "compute_dtype": manifest["compute_dtype"],
        "batch": 1,
        "max_batch": manifest["max_batch"],
        "context": manifest["context"],
        "target": "cpu",
        "verified": True,
        "loaders": manifest.get("loaders", ()),
        "files": [name for name in ("model.onnx", "model.onnx.data") if name in manifest["files"]],
        "nodes": manifest.get("nodes", {}),
        "facts": {"kv_head_dim": manifest.get("kv_head_dim")},
    }


def _check_file(path: Path, facts: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise ArtefactError(f"{path} is missing; export the artefact again")
    if path.stat().st_size != facts["bytes"] or sha256_file(path) != facts["sha256"]:
        raise ArtefactError(
            f"{path} is not the file that was exported: its hash is not the manifest's;"
            " export the artefact again"
        )
