"""The reference in the documentation is what the models say, and leaves nothing of the schema out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from vader.plugins import registry
from vader.resolve.installed import option_models
from vader.resolve.reference import PLACES, components_page, fields_page
from vader.spec.schema import run_schema

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = {"fields": fields_page, "components": components_page}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_command_writes(name: str) -> None:
    written = (REFERENCE / f"{name}.md").read_text(encoding="utf-8")
    assert written == PAGES[name](), f"run: vader schema --table {name} > docs/reference/{name}.md"


def names_in(schema: dict[str, Any], node: dict[str, Any], path: str) -> Iterator[str]:
    """Dotted names of every property in a JSON schema, by its references."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    for one in node.get("anyOf", ()):
        yield from names_in(schema, one, path)
    if isinstance(node.get("items"), dict):
        yield from names_in(schema, node["items"], f"{path}[]")
    for name, inner in node.get("properties", {}).items():
        whole = f"{path}.{name}".lstrip(".")
        yield whole
        yield from names_in(schema, inner, whole)


def test_every_field_of_the_schema_is_in_the_documentation() -> None:
    schema = run_schema({})
    text = (REFERENCE / "fields.md").read_text(encoding="utf-8")
    wanted = set(names_in(schema, schema, ""))
    assert len(wanted) > 90
    assert {name for name in wanted if f"| `{name}` |" not in text} == set()


def test_every_option_of_the_schema_is_in_the_documentation_of_its_component() -> None:
    text = (REFERENCE / "components.md").read_text(encoding="utf-8")
    parts = {part.split("\n", 1)[0]: part for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]}
    missing = []
    for kind, models in option_models().items():
        for name, model in models.items():
            assert model is not None, name
            part = parts[f"{kind} {name}"]
            missing += [
                (name, field) for field in model.model_fields if f"| `{PLACES[kind]}.options.{field}` |" not in part
            ]
    assert missing == []
    assert len(parts) == sum(len(registry.entries(kind)) for kind in PLACES)


def test_no_line_of_a_table_lacks_a_meaning() -> None:
    for name in PAGES:
        lines = [line for line in (REFERENCE / f"{name}.md").read_text("utf-8").splitlines() if line.startswith("| `")]
        assert [line for line in lines if line.endswith("|  |") or line.count(" | ") != 3] == []


def test_every_page_is_in_the_navigation() -> None:
    """Those of this folder and those of the distributions."""

    def pages(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from pages(inner)

    class Loader(yaml.SafeLoader):
        """MkDocs' files have tags of Python."""

    listed = set(pages(yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Loader)["nav"]))
    docs = ROOT / "docs"
    own = {str(page.relative_to(docs)) for page in docs.rglob("*.md") if "adr" not in page.parts}
    distributions = {f"plugins/{folder.name}.md" for folder in (ROOT / "plugins").iterdir() if folder.is_dir()}
    assert own | distributions <= listed
