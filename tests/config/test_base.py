"""Flag over recipe over default, and every wrong setting refused by name."""

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

import pytest

from edgetiny.config.base import Config, flag_name, read_recipe, setting
from edgetiny.config.stages import STAGES
from edgetiny.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Bake(Config):
    """Settings that have one field of every kind."""

    stage: ClassVar[str] = "train"

    dough: Path = setting(help="what to bake", argument=True)
    minutes: int = setting(30, "how long", minimum=1, maximum=90)
    heat: float = setting(0.5, "how hot", minimum=0.0)
    crust: Literal["thin", "thick"] = setting("thin", "which crust")
    toppings: tuple[str, ...] = setting((), "repeat for more")
    slices: tuple[int, ...] = setting((8,), "pieces", minimum=2)
    fan: bool = setting(False, "circulate the air")
    shelf: int | None = setting(None, "which shelf", minimum=1)

    def check(self) -> None:
        if self.fan and self.heat > 0.9:
            raise ConfigError("--fan burns at --heat above 0.9")


# Where one of two settings has to be given, though neither is required alone.
ONE_OF_TWO = {
    "design": {"params": "1B", "vocab": 48_000},
    "eval": {"data": "shards"},
    "importance": {"layers": True},
    "init": {"tokenizer": "tokenizer"},
    "tokenizer_compress": {"vocab_size": 400, "counts": "counts.json"},
}


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_stand_when_nothing_is_given() -> None:
    bake = Bake.load(flags={"dough": "d"})
    assert (bake.minutes, bake.toppings, bake.shelf) == (30, (), None)
    assert bake.dough == Path("d")


def test_flag_beats_recipe_beats_default(tmp_path: Path) -> None:
    path = recipe(tmp_path, '[train]\ndough = "d"\nminutes = 40\nheat = 1\nslices = [4, 6]\n')
    bake = Bake.load(path, {"minutes": 50, "heat": None})
    assert bake.minutes == 50
    assert bake.heat == 1.0
    assert type(bake.heat) is float
    assert bake.slices == (4, 6)
    assert bake.crust == "thin"


def test_a_false_flag_beats_a_true_recipe(tmp_path: Path) -> None:
    path = recipe(tmp_path, '[train]\ndough = "d"\nfan = true\n')
    assert Bake.load(path).fan is True
    assert Bake.load(path, {"fan": False}).fan is False


def test_another_stage_of_the_recipe_is_left_alone(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[export]\ncontext = 64\n")
    assert Bake.load(path, {"dough": "d"}).minutes == 30


def test_settings_do_not_change_after_they_are_built() -> None:
    bake = Bake.load(flags={"dough": "d"})
    with pytest.raises(AttributeError):
        bake.minutes = 31  # type: ignore[misc]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("minuts = 3", "unknown key minuts; did you mean minutes?"),
        ("minutes = 0", "--minutes must be at least 1, not 0"),
        ("minutes = 91", "--minutes must be at most 90, not 91"),
        ("minutes = 3.5", "minutes must be of type int"),
        ("minutes = true", "minutes must be of type int"),
        ('minutes = "3"', "minutes must be of type int"),
        ("heat = nan", "--heat must be at least 0, not nan"),
        ('heat = "hot"', "heat must be of type float"),
        ('crust = "none"', "crust must be one of thin, thick, not 'none'"),
        ('toppings = "salt"', "toppings must be a list"),
        ("toppings = [1]", "toppings must be of type str"),
        ("slices = [8, 1]", "--slices must be at least 2, not 1"),
        ("shelf = 0", "--shelf must be at least 1"),
        ("fan = 1", "fan must be of type bool"),
        ("fan = true\nheat = 0.95", "--fan burns"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, table: str, message: str) -> None:
    path = recipe(tmp_path, f'[train]\ndough = "d"\n{table}\n')
    with pytest.raises(ConfigError) as raised:
        Bake.load(path)
    assert message in str(raised.value)


def test_a_missing_setting_is_named_as_it_is_written() -> None:
    with pytest.raises(ConfigError, match="DOUGH is missing"):
        Bake.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train", "is not valid TOML"),
        ("steps = 3", "steps stands outside a table"),
        ("[trian]\nsteps = 3", r"unknown table \[trian\]; did you mean train"),
    ],
)
def test_a_damaged_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(recipe(tmp_path, text), "train")


def test_a_recipe_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_recipe(tmp_path / "none.toml", "train")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(tmp_path, "train")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(tmp_path / "bytes.toml", "train")


@pytest.mark.parametrize("config", STAGES.values(), ids=STAGES.keys())
def test_every_setting_of_every_stage_says_what_it_does(config: type[Config]) -> None:
    for spec in fields(config):
        assert spec.metadata["help"], f"{config.__name__}.{spec.name}"
        assert spec.name not in ("recipe", "json", "quiet"), "taken by every command"


@pytest.mark.parametrize("config", STAGES.values(), ids=STAGES.keys())
def test_the_defaults_of_every_stage_are_valid(config: type[Config]) -> None:
    given = {
        spec.name: stand_in(spec.name, spec.type)
        for spec in fields(config)
        if spec.default is MISSING
    }
    config.load(flags=given | ONE_OF_TWO.get(config.stage, {}))


def stand_in(name: str, kind: Any) -> Any:
    """Return a valid value for a required setting."""
    if get_origin(kind) is tuple:
        return [stand_in(name, get_args(kind)[0])]
    return name if kind in (Path, str) else 1


def test_flag_names() -> None:
    names = [flag_name(spec) for spec in fields(Bake)]
    assert names[:3] == ["DOUGH", "--minutes", "--heat"]
