"""How settings come to be: flag over recipe over default, checked once, complete when built."""

import difflib
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Union

from edgetiny.config.paths import Kind, check_outputs
from edgetiny.errors import ConfigError
from edgetiny.files import read_toml


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    argument: bool = False,
    flag: str | None = None,
    writes: Kind | None = None,
    preset: bool = False,
) -> Any:
    """Declare one setting: its default (required if absent), its help line, its bounds.

    argument: a positional argument on the command line instead of a `--flag`.
    flag: the flag's name where Python cannot have it as a field's, such as `--from`.
    writes: what the stage makes at this path; every other path is read.
    preset: the path is read if it is a file, and is a preset's name otherwise.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "argument": argument,
        "flag": flag,
        "writes": writes,
        "preset": preset,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Base of every stage's settings. `stage` is the command and the recipe's table name.

    Without a stage it is a table of another TOML file (`from_table`).
    """

    stage: ClassVar[str] = ""
    updates: ClassVar[bool] = False
    """Whether an input may be what is written: a file, which is replaced once it was read."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            name = flag_name(spec) if self.stage else spec.name
            _check_bounds(spec, getattr(self, spec.name), name)
        self.check()
        self._check_paths()

    def check(self) -> None:
        """Raise ConfigError if settings contradict each other."""

    def writes(self, spec: Field[Any]) -> Kind | None:
        """Return what the stage makes at a setting's path; None if it reads it."""
        kind: Kind | None = spec.metadata["writes"]
        return kind

    def _check_paths(self) -> None:
        reads, outputs = list[tuple[str, Path]](), list[tuple[str, Path, Kind]]()
        for spec in fields(self):
            value, name, kind = getattr(self, spec.name), flag_name(spec), self.writes(spec)
            for path in value if isinstance(value, tuple) else (value,):
                if not isinstance(path, Path):
                    continue
                if kind is not None:
                    outputs.append((name, path, kind))
                elif not spec.metadata["preset"] or path.is_file():
                    reads.append((name, path))
        check_outputs([] if self.updates else reads, outputs)

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON values, paths as text: what the lineage records."""
        return {spec.name: _as_json(getattr(self, spec.name)) for spec in fields(self)}

    def command_line(self) -> str:
        """Return the command that runs this stage with these settings; defaults are left out."""
        words = ["edgetiny", *self.stage.split("_")]
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value == spec.default:
                continue
            for part in value if isinstance(value, tuple) else (value,):
                name = () if spec.metadata["argument"] else (flag_name(spec),)
                if isinstance(part, bool):
                    words += [flag_name(spec) if part else flag_name(spec).replace("--", "--no-")]
                else:
                    words += [*name, shlex.quote(str(part))]
        return " ".join(words)

    @classmethod
    def load(cls, recipe: Path | None = None, flags: Mapping[str, Any] | None = None) -> Self:
        """Build the settings: a flag that is not None over the recipe, the recipe over defaults.

        recipe: a TOML file with a table per stage; this stage's table must hold known keys only.
        Raises ConfigError naming the key and where it stands.
        """
        given = read_recipe(recipe, cls.stage) if recipe is not None else {}
        values = _coerce_all(cls, given, f"{recipe} [{cls.stage}]")
        chosen = {key: value for key, value in (flags or {}).items() if value is not None}
        values |= _coerce_all(cls, chosen, f"edgetiny {cls.stage}".rstrip())
        for spec in fields(cls):
            if spec.default is MISSING and spec.name not in values:
                raise ConfigError(f"edgetiny {cls.stage}: {flag_name(spec)} is missing")
        return cls(**values)

    @classmethod
    def from_table(cls, table: object, where: str) -> Self:
        """Build the settings from one table of a TOML file that is no recipe.

        Raises ConfigError, beginning with `where`, for a key that is unknown, wrong or missing.
        """
        if not isinstance(table, dict):
            raise ConfigError(f"{where} must be a table, not {table!r}")
        values = _coerce_all(cls, table, where)
        for spec in fields(cls):
            if spec.default is MISSING and spec.name not in values:
                raise ConfigError(f"{where}: key {spec.name} is missing")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def flag_name(spec: Field[Any]) -> str:
    """Return how a setting is written on the command line: `--hidden-size`, or `CHECKPOINT`."""
    if spec.metadata["argument"]:
        return spec.name.upper()
    return spec.metadata.get("flag") or "--" + spec.name.replace("_", "-")


def read_recipe(path: Path, stage: str) -> dict[str, Any]:
    """Return one stage's table of a TOML recipe (empty if it has none).

    Raises ConfigError if the file is missing, is not TOML or has a table of no known stage.
    """
    from edgetiny.config.stages import STAGES

    recipe = read_toml(path, "recipe")
    for name, table in recipe.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {name} stands outside a table; put it under [{stage}]")
        if name not in STAGES:
            raise ConfigError(f"{path}: unknown table [{name}]{_nearest(name, list(STAGES))}")
    table = recipe.get(stage, {})
    assert isinstance(table, dict)
    return table


def _coerce_all(config: type[Config], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(config)
    known = {spec.name: spec for spec in fields(config)}
    values = {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key}{_nearest(key, list(known))}")
        values[key] = _coerce(value, hints[key], f"{where}: {key}")
    return values


def _coerce(value: Any, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        [inner] = [arg for arg in args if arg is not type(None)]
        return _coerce(value, inner, where)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{where} must be a list, not {value!r}")
        return tuple(_coerce(part, args[0], where) for part in value)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where} must be one of {', '.join(map(str, args))}, not {value!r}")
        return value
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is float and type(value) in (int, float):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} must be of type {hint.__name__}, not {value!r}")
    return value


def _check_bounds(spec: Field[Any], value: Any, name: str) -> None:
    minimum, maximum = spec.metadata["minimum"], spec.metadata["maximum"]
    for part in value if isinstance(value, tuple) else (value,):
        if part is None:
            continue
        if minimum is not None and not part >= minimum:
            raise ConfigError(f"{name} must be at least {minimum:g}, not {part}")
        if maximum is not None and not part <= maximum:
            raise ConfigError(f"{name} must be at most {maximum:g}, not {part}")


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"
