"""`edgetiny inspect`: what a checkpoint or an artefact holds, and whether it is sound.

Tensors are read one at a time and a block at a time, so that any size fits.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgetiny.artefact import UNHASHED, is_artefact, read_manifest
from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.config.model import InspectConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.cost import parameters, part_of
from edgetiny.errors import ArtefactError
from edgetiny.files import read_json, sha256_file

_PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
_PARTS = ("embedding", "head", "attention", "ffn", "norms")
_BLOCK = 2**22


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor's shape, storage and values. std is None where a value is not finite."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    std: float | None
    n_nan: int
    n_infinite: int


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """A checkpoint, read through once."""

    checkpoint: Checkpoint
    tensors: tuple[TensorFacts, ...]

    @property
    def exit_code(self) -> int:
        """0, or 1 if a value is not finite: no stage can use such a checkpoint."""
        return int(any(fact.n_nan or fact.n_infinite for fact in self.tensors))

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints; `not_finite` is empty in a sound checkpoint."""
        share = parameters(self.checkpoint.config).embedding_and_head_share
        broken = [fact for fact in self.tensors if fact.n_nan or fact.n_infinite]
        return self.checkpoint.summary() | {
            "size_bytes": sum(fact.size_bytes for fact in self.tensors),
            "embedding_and_head_percent": 100 * share,
            "all_values_finite": self.exit_code == 0,
            "not_finite": [
                {"tensor": fact.name, "nan": fact.n_nan, "infinite": fact.n_infinite}
                for fact in broken
            ],
            "parts": _part_rows(self.checkpoint.config, self.tensors),
            "tensors": _shape_rows(self.tensors),
            "standard_deviations": _deviation_rows(self.tensors),
            "lineage": _lineage_rows(self.checkpoint),
        }


@dataclass(frozen=True, slots=True)
class ArtefactResult:
    """An artefact's manifest, its model's shape and the state of each of its files."""

    path: Path
    manifest: Mapping[str, Any]
    config: ModelConfig
    files: tuple[dict[str, Any], ...]

    @property
    def exit_code(self) -> int:
        """0, or 1 if a file is missing or not as it was exported."""
        return int(any(row["state"] not in ("ok", "not hashed") for row in self.files))

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints; `intact` says whether every file is as exported."""
        counts = parameters(self.config)
        facts = {
            key: value
            for key, value in self.manifest.items()
            if key not in ("files", "schema_version")
        }
        return {
            "artefact": str(self.path),
            "intact": self.exit_code == 0,
            "size_bytes": sum(row["bytes"] or 0 for row in self.files),
            "parameters": counts.total,
            "embedding_and_head_percent": 100 * counts.embedding_and_head_share,
            "manifest": facts,
            "files": list(self.files),
        }


def run(config: InspectConfig, reporter: Reporter = QUIET) -> CheckpointResult | ArtefactResult:
    """Read a checkpoint or an artefact through and say what is there; nothing is written.

    Values that are not finite and files that changed are rows of the result. Raises
    CheckpointError or ArtefactError if the folder is neither, or its headers do not fit together.
    """
    if is_artefact(config.source):
        return inspect_artefact(config.source, reporter)
    return inspect_checkpoint(Checkpoint.open(config.source), reporter)


def inspect_checkpoint(checkpoint: Checkpoint, reporter: Reporter = QUIET) -> CheckpointResult:
    """Read every tensor once."""
    facts = []
    names = checkpoint.names()
    with reporter.task("reading tensors", total=len(names)) as task:
        for name in names:
            facts.append(tensor_facts(name, checkpoint.tensor(name)))
            task.advance(note=name)
    return CheckpointResult(checkpoint, tuple(facts))


def tensor_facts(name: str, tensor: Tensor) -> TensorFacts:
    """Return a tensor's facts; the standard deviation is over all values (no Bessel correction)."""
    n_nan = n_infinite = 0
    total = squares = 0.0
    for block in torch.split(tensor.flatten(), _BLOCK):
        values = block.double()
        n_nan += int(values.isnan().sum())
        n_infinite += int(values.isinf().sum())
        total += values.sum().item()
        squares += values.square().sum().item()
    n = tensor.numel()
    is_finite = not n_nan and not n_infinite
    return TensorFacts(
        name=name,
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        size_bytes=tensor.nbytes,
        std=math.sqrt(max(0.0, squares / n - (total / n) ** 2)) if is_finite else None,
        n_nan=n_nan,
        n_infinite=n_infinite,
    )


def inspect_artefact(path: Path, reporter: Reporter = QUIET) -> ArtefactResult:
    """Hash every file of an artefact and compare with its manifest."""
    manifest = read_manifest(path)
    listed = manifest["files"]
    config = ModelConfig.from_hf(read_json(path / "config.json", error=ArtefactError))
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    names = [*listed, *sorted(present - listed.keys())]
    rows = []
    with reporter.task("hashing files", total=len(names)) as task:
        for name in names:
            rows.append(_file_row(path, name, listed.get(name)))
            task.advance(note=name)
    return ArtefactResult(path, manifest, config, tuple(rows))


def _file_row(folder: Path, name: str, expected: Mapping[str, Any] | None) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        return {"file": name, "bytes": None, "sha256": None, "state": "missing"}
    digest = sha256_file(path)
    if expected is None:
        # The manifest cannot hold its own hash, and what was measured follows it.
        state = "not hashed" if name in UNHASHED else "not in the manifest"
    else:
        state = "ok" if digest == expected.get("sha256") else "changed"
    return {"file": name, "bytes": path.stat().st_size, "sha256": digest[:16], "state": state}


def _part_rows(config: ModelConfig, tensors: tuple[TensorFacts, ...]) -> list[dict[str, Any]]:
    counts = parameters(config)
    rows = []
    for part in _PARTS:
        count: int = getattr(counts, part)
        size = sum(fact.size_bytes for fact in tensors if part_of(fact.name) == part)
        tied = part == "head" and config.tie_word_embeddings
        rows.append(
            {
                "part": "head (tied to the embedding)" if tied else part,
                "parameters": count,
                "percent": 100 * count / counts.total,
                "bytes": size,
            }
        )
    return rows


def _shape_rows(tensors: tuple[TensorFacts, ...]) -> list[dict[str, Any]]:
    """Return one row for tensors that differ by the layer only."""
    counts: dict[tuple[str, str, str], int] = {}
    for fact in tensors:
        name = re.sub(r"^model\.layers\.\d+\.", "model.layers.*.", fact.name)
        key = (name, " x ".join(map(str, fact.shape)), fact.dtype)
        counts[key] = counts.get(key, 0) + 1
    return [
        {"tensor": name, "shape": shape, "dtype": dtype, "count": count}
        for (name, shape, dtype), count in counts.items()
    ]


def _deviation_rows(tensors: tuple[TensorFacts, ...]) -> list[dict[str, Any]]:
    """Return the deviation of each layer's projections: Figure 11 of the paper as a table."""
    rows: dict[int, dict[str, Any]] = {}
    for fact in tensors:
        match = re.fullmatch(r"model\.layers\.(\d+)\.\w+\.(\w+)_proj\.weight", fact.name)
        if match:
            layer = int(match[1])
            rows.setdefault(layer, {"layer": layer} | dict.fromkeys(_PROJECTIONS))
            rows[layer][match[2]] = fact.std
    return [rows[layer] for layer in sorted(rows)]


def _lineage_rows(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Return the chain of stages, the oldest first and this checkpoint last."""
    lineage = checkpoint.lineage
    if not lineage:
        return []
    own = {"stage": lineage.get("stage"), "settings": lineage.get("settings", {})}
    chain = [*lineage.get("ancestors", []), own | {"sha256": checkpoint.sha256}]
    return [
        {
            # An ancestor that another tool wrote has a hash and no story.
            "stage": step.get("stage", "not by edgetiny"),
            "sha256": step["sha256"][:16],
            "settings": step.get("settings", {}),
        }
        for step in chain
    ]
