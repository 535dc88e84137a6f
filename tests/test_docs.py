"""The Python examples in the documentation run and print what they say."""

from __future__ import annotations

import doctest
import json
import pkgutil
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SESSIONS = re.compile(r"^```python\n(>>> .*?)^```$", re.MULTILINE | re.DOTALL)
LINKS = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PAGES = sorted((*DOCS.glob("*.md"), *(DOCS / "learn").glob("*.md"), *DOCS.parent.glob("*.md")))


def _name(page: Path) -> str:
    return str(page.relative_to(DOCS.parent))


@pytest.mark.parametrize("page", [page for page in PAGES if SESSIONS.search(page.read_text(encoding="utf-8"))], ids=_name)
def test_examples_print_what_they_say(page: Path) -> None:
    sessions = "\n".join(SESSIONS.findall(page.read_text(encoding="utf-8")))
    test = doctest.DocTestParser().get_doctest(sessions, {}, page.name, str(page), 0)
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = [link for link in LINKS.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


NAVIGATION = re.compile(r"^ +- (?:[^:\n]+: )?([\w/]+\.md)$", re.MULTILINE)
DIRECTIVES = re.compile(r"^::: ([\w.]+?)(\.\*)?$", re.MULTILINE)


def test_every_page_is_in_the_navigation_once() -> None:
    pages = NAVIGATION.findall((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))
    made = {"changelog.md", "contributing.md"}  # of files outside docs/
    assert sorted(pages) == sorted({str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | made)


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.md")), ids=lambda page: page.name)
def test_the_reference_names_what_exists(page: Path) -> None:
    for name, _ in DIRECTIVES.findall(page.read_text(encoding="utf-8")):
        assert pkgutil.resolve_name(name) is not None


def test_every_example_is_in_the_list() -> None:
    listed = re.findall(r"\(\.\./examples/(\w+\.py)\)", (DOCS / "examples.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in (DOCS.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("notebook", sorted((DOCS.parent / "notebooks").glob("*.ipynb")), ids=lambda notebook: notebook.name)
def test_notebooks_are_kept_without_outputs(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


def test_pictures_are_small() -> None:
    pictures = [*(DOCS / "images").iterdir(), *(DOCS / "learn" / "images").iterdir()]
    assert [path.name for path in pictures if path.stat().st_size > 300_000] == []


def test_the_citation_has_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"$', (DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert f"\nversion: {version[1]}\n" in (DOCS.parent / "CITATION.cff").read_text(encoding="utf-8")
