"""Models in each engine's own format, made once and kept with what made them."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peers.call import call
from peers.environments import REQUIREMENTS
from peers.settings import Setting

_DONE = "prepared.json"
_FAILED = "failed.json"
_LIBRARY = Path(__file__).parents[2] / "edgetiny"
_ENGINES = Path(__file__).parent / "engines"
# What our artefacts depend on, and their speed besides.
_LOWERING = (
    *("artefact.py", "checkpoint", "config", "data", "export", "forecast.py", "gqa", "model"),
    "quantize",
)
_RUNNING = ("runtimes",)


class Converted:
    """The folder of converted models: `converted/MODEL/CONVERSION`."""

    def __init__(self, work: Path, threads: int, limit_s: float) -> None:
        self._work = work
        self._threads = threads
        self._limit_s = limit_s
        self._lowering = code_digest(_LIBRARY, _LOWERING)
        self._running = code_digest(_LIBRARY, _LOWERING + _RUNNING)

    def folder(self, model: str, setting: Setting) -> Path:
        """Return where a setting's model lies."""
        return self._work / "converted" / model / setting.conversion

    def identity(self, setting: Setting) -> str:
        """Return a hash of the setting with what it stands on: pins, engine's code or our own."""
        ground = self._running if setting.is_ours else ""
        return _digest(setting.identity, ground, _foundation(setting))

    def prepare(
        self,
        model: str,
        checkpoint: Path,
        setting: Setting,
        python: Path,
        *,
        retry: bool,
        say: Callable[[str], None],
    ) -> None:
        """Convert unless that was done; keep the reason if it fails."""
        folder = self.folder(model, setting)
        found = self._state(model, setting)
        if found is not None and not (retry and "error" in found):
            return
        say(f"converting {model} for {setting.conversion}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start = time.time()
        answer = call(
            python,
            {
                "action": "prepare",
                "engine": setting.engine,
                "checkpoint": str(checkpoint),
                "folder": str(folder),
                "options": setting.options,
                "packages": setting.packages,
                "threads": self._threads,
            },
            limit_s=self._limit_s,
            log=self._work / "logs" / f"{model}-{setting.conversion}.log",
        )
        answer |= {"identity": self._made_by(setting), "seconds": round(time.time() - start, 1)}
        if "error" not in answer:
            answer["bytes"] = size_on_disk(folder, setting.files)
        name = _FAILED if "error" in answer else _DONE
        (folder / name).write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
        say(f"  {answer.get('error', 'done')} ({answer['seconds']:.0f} s)")

    def failure(self, model: str, setting: Setting) -> str | None:
        """Return why there is nothing to run; None if there is."""
        if setting.engine == "reference":
            return None
        found = self._state(model, setting)
        if found is None:
            return "not converted"
        error = found.get("error")
        return None if error is None else f"conversion: {error}"

    def facts(self, model: str, setting: Setting) -> Mapping[str, Any]:
        """Return bytes, seconds and versions of a conversion as it lies there; {} if it failed."""
        path = self.folder(model, setting) / _DONE
        if not path.is_file():
            return {}
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _state(self, model: str, setting: Setting) -> dict[str, Any] | None:
        for name in (_DONE, _FAILED):
            path = self.folder(model, setting) / name
            if path.is_file():
                found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                if found["identity"] == self._made_by(setting):
                    return found
        return None

    def _made_by(self, setting: Setting) -> str:
        """Return a hash of what the files depend on: settings of one conversion share it."""
        ground = self._lowering if setting.is_ours else ""
        facts = [setting.conversion, dict(setting.convert), setting.padded]
        return _digest(json.dumps(facts, sort_keys=True), ground, _foundation(setting))


def _foundation(setting: Setting) -> str:
    """Return what every setting stands on: its environment's pins and its engine's file here."""
    pins = REQUIREMENTS / f"{setting.environment}.txt"
    engine = code_digest(_ENGINES, (f"{setting.engine}.py",))
    return engine + (pins.read_text(encoding="utf-8") if pins.is_file() else "")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def size_on_disk(folder: Path, patterns: tuple[str, ...]) -> int:
    """Return the bytes of the files that make the model, each counted once."""
    files = {file for pattern in patterns for file in folder.glob(pattern)}
    return sum(file.stat().st_size for file in files)


def code_digest(folder: Path, rooms: Sequence[str]) -> str:
    """Return a hash of some Python files, and of all that lie in some folders.

    Raises FileNotFoundError for a room that is not there.
    """
    digest = hashlib.sha256()
    for room in rooms:
        place = folder / room
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        for file in files:
            digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]
