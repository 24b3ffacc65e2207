"""English text that every installation carries: Python's help topics and docstrings.

A document is what one module says of itself; its `source` starts with the module's name,
so that a split by work never puts two docstrings of one module on both sides.
"""

import ast
import hashlib
import importlib.util
import json
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from edgetiny.console import Reporter
from edgetiny.errors import DataError
from edgetiny.files import atomic_file

PACKAGES = ("numpy", "networkx", "sympy", "torch", "huggingface_hub", "typer", "rich")
EMBEDDED_PROMPT = "Return the"
_SHORTEST = 40
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def write_embedded_text(out: Path, reporter: Reporter, max_bytes: int) -> Path:
    """Write a `.jsonl` of `text` and `source` and return its path.

    max_bytes: stop after the module that passes it.
    """
    n_bytes = 0
    with atomic_file(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        with reporter.task("collecting docstrings (KiB)", max_bytes // 1024) as task:
            for source, text in _documents():
                stream.write(json.dumps({"text": text, "source": source}, ensure_ascii=False))
                stream.write("\n")
                size = len(text.encode())
                n_bytes += size
                task.advance(size // 1024, source)
                if n_bytes >= max_bytes:
                    break
        if not n_bytes:
            raise DataError("no docstrings were found in this Python; give --text FILE")
    return out


def _documents() -> Iterator[tuple[str, str]]:
    """Yield (source, text), each docstring once, topics first, then the packages in turn."""
    seen: set[bytes] = set()
    for name, text in _topics():
        if _is_new(text, seen):  # several names may lead to one topic
            yield f"python.topics.{name}#topic", text
    roots = [("python", Path(sysconfig.get_paths()["stdlib"]))]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            roots.append((name, Path(spec.origin).parent))
    for package, root in roots:
        for file in sorted(root.rglob("*.py")):
            parts = file.relative_to(root).parts
            if any(part in ("site-packages", "tests", "test", "idlelib") for part in parts):
                continue
            module = ".".join((package, *parts[:-1], file.stem))
            text = "\n\n".join(doc for doc in _docstrings(file) if _is_new(doc, seen))
            if text:
                yield f"{module}#docstrings", text + "\n"


def _topics() -> Iterator[tuple[str, str]]:
    if importlib.util.find_spec("pydoc_data.topics") is None:
        return
    from pydoc_data.topics import topics

    yield from topics.items()


def _docstrings(file: Path) -> Iterator[str]:
    try:
        source = file.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            # Other people's modules may hold escapes that a newer Python warns of.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (OSError, UnicodeDecodeError, SyntaxError):
        return  # templates and fixtures that are no Python of this version
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node)
            if text and len(text) >= _SHORTEST:
                yield text


def _is_new(text: str, seen: set[bytes]) -> bool:
    key = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    if key in seen:
        return False
    seen.add(key)
    return True
