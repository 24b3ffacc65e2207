"""From what the user named to a folder on this machine."""

import re
from pathlib import Path

from edgetiny.errors import CheckpointError

_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]


def resolve(reference: Path | str) -> Path:
    """Return the folder of a checkpoint: a path as it is, `hf:owner/name[@revision]` downloaded.

    Raises CheckpointError if there is no such folder, or the hub cannot serve it.
    """
    text = str(reference)
    if text.startswith("hf:"):
        return _download(text)
    path = Path(reference)
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if not path.is_dir():
        raise CheckpointError(
            f"checkpoint {path} is a file; name the folder that holds config.json"
        )
    if not (path / "config.json").exists():
        raise CheckpointError(f"{path} is no checkpoint: it has no config.json")
    return path


def _download(reference: str) -> Path:
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", reference)
    if not match:
        raise CheckpointError(f"{reference} is not of the form hf:owner/name[@revision]")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, revision = match.groups()
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{reference} cannot be had from the hub and is not in its cache: {reason}"
        ) from error
