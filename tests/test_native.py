"""The reader of C++ sections; every header of the package can be read and is shipped with it."""

from __future__ import annotations

from pathlib import Path

import pytest

import unrender
from unrender.ops.kernels.native import native_sections


def header(folder: Path, text: str) -> tuple[str, str]:
    (folder / "body.h").write_text(text, encoding="utf-8")
    return str(folder / "module.py"), "body.h"


def test_a_section_holds_what_stands_below_its_name(tmp_path: Path) -> None:
    sections = native_sections(*header(tmp_path, "// for readers\n// section: one\nint a;\n// section: two\nint b;\n"))
    assert vars(sections) == {"one": "\nint a;\n", "two": "\nint b;\n"}


def test_used_sections_stand_in_their_place(tmp_path: Path) -> None:
    text = "// section: inner\nint x;\n// section: middle\n  // use: inner\n// section: outer\n{\n    // use: middle\n}\n"
    assert native_sections(*header(tmp_path, text)).outer == "\n{\nint x;\n}\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("// section: a\n// section: a\n", "defines a section twice"),
        ("// section: a\n// use: b\n", "the section b is not defined"),
        ("// section: a\n// use: b\n// section: b\n// use: a\n", "uses itself"),
        ("// section: a\n// use: kernels.no_such\n", "the section kernels.no_such is not defined"),
        ("// section: b\n// section: a\n// use: b with N = 3\n", "cannot be read: // use: b with N = 3"),
    ],
)
def test_a_broken_header_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        native_sections(*header(tmp_path, text))


def test_every_header_of_the_package_can_be_read() -> None:
    root = Path(unrender.__file__).parent
    for path in root.rglob("*.h"):
        assert native_sections(str(path), path.name), path


def test_macros_of_a_use_end_with_it(tmp_path: Path) -> None:
    text = "// section: loop\nN + CHANNEL;\n// section: outer\n  // use: loop with N=3 CHANNEL=(list?list[k]:k)\n"
    body = "\n#define N 3\n#define CHANNEL (list?list[k]:k)\nN + CHANNEL;\n#undef N\n#undef CHANNEL\n"
    assert native_sections(*header(tmp_path, text)).outer == body


def test_shared_sections_are_used_by_their_room(tmp_path: Path) -> None:
    sections = native_sections(*header(tmp_path, "// section: a\n// use: kernels.forget_add\n"))
    assert "#undef UNRENDER_ADD\n" in sections.a and set(vars(sections)) == {"a"}
