"""Documentation that points somewhere: links resolve, and no format or schema is left out."""

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs" / "formats" / "index.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCHEMAS = sorted((ROOT / "docs" / "schemas").glob("*.json"))


def links(page: Path) -> list[str]:
    """Return the relative targets of a page's links, less their anchors."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [link.split("#")[0] for link in found if "://" not in link and link.split("#")[0]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    broken = [link for link in links(page) if not (page.parent / link).exists()]
    assert broken == []


def test_the_index_names_every_format_and_schema() -> None:
    formats = {path.name for path in INDEX.parent.glob("*.md")} - {INDEX.name}
    listed = {Path(link).name for link in links(INDEX)}
    assert listed == formats | {path.name for path in SCHEMAS}


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_a_schema_is_one_and_asks_for_a_version(path: Path) -> None:
    schema = json.loads(path.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    assert "schema_version" in schema["required"]
