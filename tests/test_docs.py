"""The Python examples in the documentation run and print what they say."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SESSIONS = re.compile(r"^```python\n(>>> .*?)^```$", re.MULTILINE | re.DOTALL)
LINKS = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PAGES = sorted(page for page in (*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")))


@pytest.mark.parametrize("page", [page for page in PAGES if SESSIONS.search(page.read_text(encoding="utf-8"))], ids=lambda page: page.name)
def test_examples_print_what_they_say(page: Path) -> None:
    sessions = "\n".join(SESSIONS.findall(page.read_text(encoding="utf-8")))
    test = doctest.DocTestParser().get_doctest(sessions, {}, page.name, str(page), 0)
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = [link for link in LINKS.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
