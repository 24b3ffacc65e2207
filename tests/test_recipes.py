"""Every recipe that the repository ships loads, and the check says so when one does not."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the checking program as `make check-recipes` does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = [sys.executable, str(folder / "check_recipes.py")]
    return subprocess.run(program, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a copy of `export/` to damage."""
    return shutil.copytree(ROOT / "export", tmp_path / "export")


def test_every_shipped_recipe_loads() -> None:
    done = check(ROOT / "export")
    assert done.returncode == 0, done.stderr
    n_recipes = len(list((ROOT / "export" / "recipes").glob("*.toml")))
    assert done.stdout.count("\n") == n_recipes > 0


def test_a_program_for_one_batch_is_measured_at_it() -> None:
    """ExecuTorch programs are static: bench's own 20 sequences would be refused."""
    for path in (ROOT / "export" / "recipes").glob("*.toml"):
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        if tables["export"]["format"] == ["executorch"]:
            assert tables["bench"]["batch"] == tables["export"]["batch"], path.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[export]\nprecison = 'int8'\n", "unknown key precison; did you mean precision?"),
        ("[exprot]\n", "unknown table [exprot]"),
        ("[export\n", "wrong.toml"),
        ("", "has no table"),
    ],
)
def test_a_wrong_recipe_is_named(copied: Path, text: str, message: str) -> None:
    (copied / "recipes" / "wrong.toml").write_text(text, encoding="utf-8")
    done = check(copied)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_recipe_at_all_is_an_error(copied: Path) -> None:
    shutil.rmtree(copied / "recipes")
    assert check(copied).returncode == 1
