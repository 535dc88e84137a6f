"""The figures of docs/learn are what its code draws, and every page has one."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

LEARN = Path(__file__).parents[1] / "docs" / "learn"
NUMBER = re.compile(r"-?\d+\.\d+")
CHEAP = ("volume_rendering", "hash_grids", "neus_weights", "missing_gradient")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("learn_figures", LEARN / "figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", CHEAP)
def test_a_figure_is_what_its_code_draws(figures: ModuleType, name: str) -> None:
    kept, drawn = (LEARN / "images" / f"{name}.svg").read_text(encoding="utf-8"), figures.FIGURES[name]()
    assert NUMBER.sub("", drawn) == NUMBER.sub("", kept)
    np.testing.assert_allclose([float(x) for x in NUMBER.findall(drawn)], [float(x) for x in NUMBER.findall(kept)], atol=0.11)


def test_every_page_shows_its_figure_and_every_figure_has_a_page(figures: ModuleType) -> None:
    pages = sorted(page.stem for page in LEARN.glob("*.md") if page.stem != "index")
    assert sorted(figures.FIGURES) == pages
    assert sorted(path.stem for path in (LEARN / "images").iterdir()) == pages
    assert [page for page in pages if f"](images/{page}.svg)" not in (LEARN / f"{page}.md").read_text(encoding="utf-8")] == []


def test_the_index_lists_every_page_in_the_order_of_the_navigation() -> None:
    listed = re.findall(r"^\| \[.+\]\((\w+)\.md\)", (LEARN / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    navigation = re.findall(r"learn/(\w+)\.md", (LEARN.parents[1] / "mkdocs.yml").read_text(encoding="utf-8"))
    assert ["index", *listed] == navigation
