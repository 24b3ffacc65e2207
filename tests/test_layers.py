"""The import direction of docs/architecture.md, also where a function imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edgetiny"

# Left to right; rooms of one tuple do not import each other.
LAYERS = (
    ("errors",),
    ("files",),
    ("config",),
    ("console",),
    ("markdown", "svg", "page"),
    ("measure", "text"),
    ("device",),
    ("checkpoint",),
    ("artefact",),
    ("tokenizer",),
    ("data",),
    ("model",),
    ("cost",),
    ("forecast",),
    ("design",),
    ("init", "inspect"),
    ("quantize",),
    ("runtimes",),
    ("evaluate", "generate"),
    ("train",),
    ("importance",),
    ("inherit", "gqa"),
    ("export", "bench"),
    ("demo", "sweep"),
    ("doctor",),
    ("cli",),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}

# Not at the top of what `edgetiny --help` loads, and not at all outside the interop rooms.
HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "executorch", "transformers", "safetensors"}
LIGHT_ROOMS = {"errors", "files", "config", "console", "cli"}
INTEROP = {"transformers", "optimum", "onnxruntime_genai", "lm_eval"}
INTEROP_ROOMS = {"export", "evaluate", "doctor"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """Return the first part of a module's name inside the package; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts[0] == "__init__" else parts[0]


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each imported module's name and line; `from edgetiny import x` names edgetiny.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            assert node.module is not None
            if node.module != "edgetiny":
                yield node.module, node.lineno
                continue
            for alias in node.names:
                if alias.name != "__version__":
                    yield f"edgetiny.{alias.name}", node.lineno


def wrong_imports(source: str, room: str) -> list[str]:
    """Return a line for each import of `source` that does not point left of `room`."""
    wrong = []
    for name, line in imported(ast.parse(source)):
        package, _, inner = name.partition(".")
        target = inner.split(".")[0]
        if package != "edgetiny" or not target or target == room:
            continue
        if target not in RANK:
            wrong.append(f"line {line}: {name} is in no known room")
        elif RANK[target] >= RANK[room]:
            wrong.append(f"line {line}: {room} imports {name}, which is not to its left")
    return wrong


def test_every_room_is_known() -> None:
    rooms = {room_of(path) for path in modules()} - {"", "__main__"}
    assert rooms <= set(RANK), f"new rooms need a place in LAYERS: {sorted(rooms - set(RANK))}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_left(path: Path) -> None:
    room = room_of(path)
    if room in ("", "__main__"):
        return
    assert wrong_imports(path.read_text(encoding="utf-8"), room) == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_light_rooms_load_nothing_heavy(path: Path) -> None:
    if room_of(path) not in LIGHT_ROOMS | {"", "__main__"}:
        return
    top_level = ast.Module(
        [
            node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ],
        type_ignores=[],
    )
    assert {name.split(".")[0] for name, _ in imported(top_level)} & HEAVY == set()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_core_does_not_need_other_loaders(path: Path) -> None:
    if room_of(path) in INTEROP_ROOMS:
        return
    found = {
        name.split(".")[0] for name, _ in imported(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found & INTEROP == set()


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("text", "from edgetiny.checkpoint import Checkpoint"),
        ("text", "from edgetiny import measure"),
        ("gqa", "import edgetiny.inherit.stage"),
        ("export", "def late():\n    from edgetiny.bench.stage import run"),
        ("bench", "from edgetiny.attic import thing"),
    ],
)
def test_a_wrong_import_is_found(room: str, source: str) -> None:
    assert len(wrong_imports(source, room)) == 1


def test_a_right_import_passes() -> None:
    source = "from edgetiny import __version__\nfrom edgetiny.errors import DataError\nimport torch"
    assert wrong_imports(source, "text") == []
