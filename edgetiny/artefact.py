"""An exported artefact: a folder whose `manifest.json` names and hashes every file in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetiny.checkpoint import ModelConfig
from edgetiny.errors import ArtefactError
from edgetiny.files import read_json, sha256_file

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
# Measured after the manifest was written, and allowed to differ between machines.
VERIFICATION = "verification.json"


class Artefact:
    """An artefact folder, opened: every file is as the manifest says."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], config: ModelConfig) -> None:
        self.path = path
        self.manifest = manifest
        self.config = config

    @classmethod
    def open(cls, path: Path) -> "Artefact":
        """Open a folder and compare each file with its hash.

        Raises ArtefactError for a missing folder or manifest, or a file that is missing or changed.
        """
        if not path.is_dir():
            raise ArtefactError(f"artefact {path} is not a folder; export writes one")
        manifest = read_json(path / MANIFEST, schema_version=SCHEMA_VERSION, error=ArtefactError)
        files = manifest.get("files")
        if not isinstance(files, dict) or "model.onnx" not in files:
            raise ArtefactError(f"{path / MANIFEST} lists no model.onnx; export the artefact again")
        for name, facts in files.items():
            _check_file(path / name, facts)
        raw = read_json(path / "config.json", error=ArtefactError)
        return cls(path, manifest, ModelConfig.from_hf(raw))

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


def _check_file(path: Path, facts: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise ArtefactError(f"{path} is missing; export the artefact again")
    if path.stat().st_size != facts["bytes"] or sha256_file(path) != facts["sha256"]:
        raise ArtefactError(
            f"{path} is not the file that was exported: its hash is not the manifest's;"
            " export the artefact again"
        )
