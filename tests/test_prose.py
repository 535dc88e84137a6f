"""How the package is written: docstrings of functions begin with a verb, spelling is American, some phrases never occur."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "unrender"
PROGRAMS = ("examples", "benchmarks", "docs/learn")
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(path for folder in PROGRAMS for path in (ROOT / folder).glob("*.py"))])
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "learn").glob("*.md"), *ROOT.glob("*.md")])
TESTS = sorted((ROOT / "tests").glob("*.py"))

NO_VERB = frozenset(
    """a an the this that these those it its all any each every some no one two three four five what which who whose whom when where whether
    why how whatever of as in on at for from to with without within by between beyond over under above below after before while if once
    only also and or but not same another other more most both either neither many much few there here such so than then twice half
    color colors distance distances gradient gradients mean sum true false is are was has does opacity position positions points number
    numbers first last next random unit""".split()
)
"""Words that no function's docstring begins with."""

BRITISH = re.compile(
    r"(?i)\b\w*(colour|centre|centring|behaviour|neighbour|grey|honour|favour|artefact|millimetre|modelled|modelling|labelled|labelling|"
    r"travelled|travelling|cancelled|cancelling|learnt|catalogue|judgement|(normal|optim|raster|initial|recogn|minim|maxim|organ|summar|"
    r"discret|regular|parametr|visual|special|general|serial|synchron|util|penal|quant|vector|local|real|symmetr|linear|factor)"
    r"is(e|ed|es|er|ers|ing|ation|ations|able))\w*"
)

PHRASES = re.compile(
    r"(?i)\b(who renders|is no number|no numbers|whole numbers?|so-manieth|on the way (forward|back)|a wish that|takes? the ways of|"
    r"ways of a gpu|anew|of one's own|shall not|came along|come along|worth keeping by|asks? for neither|has no word for|"
    r"have no words for)\b"
)
"""Turns of phrase that made readers stop; say it with the field's own word."""


def functions(path: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Yield every function of a file that is no property and has a docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        text = ast.get_docstring(node)
        if text and not decorators & {"property", "cached_property", "functools.cached_property"}:
            yield node, text


def is_imperative(docstring: str) -> bool:
    """Tell whether a docstring begins with a verb in its plain form, as far as a list of words can tell."""
    word = re.split(r"[\s,.:;(]", docstring.strip(), maxsplit=1)[0]
    plain = word.isalpha() and word[:1].isupper() and word.lower() not in NO_VERB
    return plain and not (word.endswith("s") and not word.endswith(("ss", "us")))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_of_functions_begin_with_a_verb(path: Path) -> None:
    assert [f"line {node.lineno}: {text.splitlines()[0]}" for node, text in functions(path) if not is_imperative(text)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_first_sentences_are_short(path: Path) -> None:
    first = [(node.lineno, re.split(r"(?<=[.!?])\s|\n\n", text, maxsplit=1)[0]) for node, text in functions(path)]
    assert [f"line {line}: {sentence}" for line, sentence in first if len(sentence.split()) > 20] == []


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_spelling_is_american(path: Path) -> None:
    if path == Path(__file__):
        pytest.skip("lists the British spellings")
    assert sorted({found[0] for found in BRITISH.finditer(path.read_text(encoding="utf-8"))}) == []


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_phrase_makes_readers_stop(path: Path) -> None:
    assert sorted({found[0] for found in PHRASES.finditer(path.read_text(encoding="utf-8"))}) == []


def test_the_checks_find_what_they_look_for() -> None:
    assert is_imperative("Return the area.") and is_imperative("Compress a mesh.")
    assert not any(map(is_imperative, ["Returns the area.", "The area.", "What is seen.", "``x`` squared."]))
    assert BRITISH.search("a colour_map") and BRITISH.search("Normalised") and not BRITISH.search("colorize, realism, otherwise")
    assert PHRASES.search("a wish that is granted") and not PHRASES.search("along the way")
