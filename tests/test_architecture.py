"""The rules of docs/architecture.md that a machine can check, read from the source with ``ast`` so that nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "unrender"

ROW = re.compile(r"^\| \w+ \| (`.+?) \|", re.MULTILINE)


def read_levels() -> dict[str, tuple[int, int]]:
    """(stratum, place in its row) of each room, from the table of docs/architecture.md."""
    page = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    return {
        room: (stratum, place)
        for stratum, rooms in enumerate(ROW.findall(page))
        for place, room in enumerate(re.findall(r"`(\w+)/?`", rooms))
    }


LEVEL_OF = read_levels()


def level_of(module: str) -> tuple[int, int]:
    """Of a dotted name; a room that is not in the table counts as the top, and fails its own test."""
    return LEVEL_OF.get(module.split(".")[0], (len(LEVEL_OF), 0))


CUDA_ALLOWED = ("doctor", "devices", "compat")
"""The modules that may name a CUDA device: to describe the machine, to turn a name into a device, to recognize it in programs of others."""


@dataclass(frozen=True)
class Module:
    name: str
    """Dotted, without the leading package: ``ops.hash_encoding``; the package itself is ``__init__``."""
    path: Path
    tree: ast.Module
    is_package: bool

    @property
    def top(self) -> str:
        return self.name.split(".")[0]


def read_modules() -> dict[str, Module]:
    modules: dict[str, Module] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts) or "__init__"
        modules[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10)), is_package)
    return modules


MODULES = read_modules()


@dataclass(frozen=True)
class Import:
    importer: Module
    imported: str
    """The module of this package that is needed, named like :attr:`Module.name`."""
    symbol: str | None
    """What is taken from it, where it is not the module itself."""
    line: int

    def __str__(self) -> str:
        return f"{self.importer.path.relative_to(PACKAGE)}:{self.line} imports {self.imported}"


def resolve(dotted: str, symbol: str | None) -> tuple[str, str | None] | None:
    """The module behind ``import dotted`` or ``from dotted import symbol``; None outside this package."""
    first, _, rest = dotted.partition(".")
    if first != "unrender":
        return None
    if symbol is not None:
        inner = f"{rest}.{symbol}" if rest else symbol
        if inner in MODULES:
            return inner, None
    return rest or "__init__", symbol


def imports_of(module: Module) -> Iterator[Import]:
    """Every import in the file, those inside functions too."""
    package = [] if module.name == "__init__" else module.name.split(".")
    if not module.is_package:
        package = package[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            wanted = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(["unrender", *package[: len(package) + 1 - node.level], *([node.module] if node.module else [])])
            wanted = [(base, alias.name) for alias in node.names]
        else:
            continue
        for dotted, symbol in wanted:
            target = resolve(dotted, symbol)
            if target is not None:
                yield Import(module, *target, node.lineno)


IMPORTS = [found for module in MODULES.values() for found in imports_of(module)]


def test_every_module_has_a_level() -> None:
    homeless = sorted({module.top for module in MODULES.values()} - set(LEVEL_OF))
    assert not homeless, f"give {homeless} a level in the table of docs/architecture.md"


def test_every_import_names_a_module_that_exists() -> None:
    assert [str(found) for found in IMPORTS if found.imported not in MODULES] == []


def test_no_import_goes_up() -> None:
    assert [str(found) for found in IMPORTS if level_of(found.imported) > level_of(found.importer.name)] == []


def family_of(module: str) -> str | None:
    """One of the three families of primitives, or None for any other module, among them what joins two families."""
    parts = module.split(".")
    return parts[1] if parts[0] == "ops" and len(parts) > 1 and parts[1] in ("encodings", "rays", "raster") else None


def test_the_families_of_primitives_never_import_each_other() -> None:
    pairs = [(found, family_of(found.importer.name), family_of(found.imported)) for found in IMPORTS]
    assert [str(found) for found, importer, imported in pairs if importer and imported and importer != imported] == []
    assert {family_of(name) for name in MODULES} == {None, "encodings", "rays", "raster"}


def test_no_import_cycle() -> None:
    needs: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in IMPORTS:
        if found.imported in MODULES:
            needs[found.importer.name].add(found.imported)
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "import cycle: " + " -> ".join((*trail[trail.index(name) :], name))
        if name in finished:
            return
        for needed in sorted(needs[name]):
            visit(needed, (*trail, name))
        finished.add(name)

    for name in MODULES:
        visit(name, ())


def docstrings_of(tree: ast.Module) -> set[int]:
    """Strings that stand alone as a statement: the text of modules, classes, functions and fields."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}


def cuda_literals(module: Module) -> list[ast.Constant]:
    """Texts that name a device: "cuda" and "cuda:0"."""
    skipped = docstrings_of(module.tree)
    constants = [node for node in ast.walk(module.tree) if isinstance(node, ast.Constant) and id(node) not in skipped]
    return [node for node in constants if isinstance(node.value, str) and re.match(r"cuda(:|$)", node.value)]


@pytest.mark.parametrize("name", [name for name, module in MODULES.items() if module.top not in CUDA_ALLOWED])
def test_the_device_follows_the_tensors(name: str) -> None:
    assert [f"line {node.lineno}: {node.value!r}" for node in cuda_literals(MODULES[name])] == []


def test_one_function_turns_a_name_into_a_device() -> None:
    module = MODULES["devices"]
    functions = [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef)]
    homes = {f.name for literal in cuda_literals(module) for f in functions if f.lineno <= literal.lineno <= (f.end_lineno or f.lineno)}
    assert homes == {"select_device"}


def test_nothing_asks_an_object_what_it_has() -> None:
    asked = [
        f"{module.path.relative_to(PACKAGE)}:{node.lineno}"
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name) and node.id == "hasattr"
    ]
    assert asked == []


def test_kernels_are_hidden_from_the_type_checker() -> None:
    """A type checking hook would wrap the Python text of a kernel before Warp reads it: no_type_check, outermost, prevents that."""
    bare = []
    for module in MODULES.values():
        for function in ast.walk(module.tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            decorators = [ast.unparse(node.func if isinstance(node, ast.Call) else node) for node in function.decorator_list]
            is_kernel = any(text.startswith(("wp.", "warp.")) for text in decorators)
            if is_kernel and decorators[0] not in ("no_type_check", "typing.no_type_check"):
                bare.append(f"{module.path.relative_to(PACKAGE)}:{function.lineno} {function.name}")
    assert bare == []


def public_functions(module: Module) -> dict[str, list[str]]:
    """Names of the arguments of every function a user may call."""
    return {
        node.name: [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        for node in module.tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


TWIN_OF = {name: f"reference.{name.split('.')[-1]}" for name in MODULES if family_of(name) and name.count(".") == 2}
PRIMITIVES = [name for name, twin in TWIN_OF.items() if twin in MODULES]


@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_primitive_has_a_twin(name: str) -> None:
    twins = public_functions(MODULES[TWIN_OF[name]])
    for function, arguments in public_functions(MODULES[name]).items():
        assert function in twins, f"unrender.{TWIN_OF[name]} has no {function}"
        assert twins[function] == arguments, f"{function} and its twin name their arguments differently"


def packages_of_others(module: Module) -> set[str]:
    """Top names of everything imported that is not ours."""
    names = {alias.name for node in ast.walk(module.tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(module.tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in names} - {"unrender"}


def test_twins_are_plain_pytorch() -> None:
    """A twin takes types from the lower levels, never a function of ops: otherwise it would compare a kernel with itself."""
    leaning = [
        str(found)
        for found in IMPORTS
        if found.importer.top == "reference" and found.imported.startswith("ops") and not (found.symbol or "")[:1].isupper()
    ]
    compiled = [module.name for module in MODULES.values() if module.top == "reference" and "warp" in packages_of_others(module)]
    assert leaning + compiled == []


def test_kernels_live_in_ops() -> None:
    """Elsewhere only ``doctor`` and ``devices`` import Warp, to say what they find."""
    outside = {module.name for module in MODULES.values() if module.top != "ops" and "warp" in packages_of_others(module)}
    assert outside <= {"doctor", "devices"}


LINES = sum(len(module.path.read_text(encoding="utf-8").splitlines()) for module in MODULES.values())


def test_no_file_is_longer_than_600_lines() -> None:
    lengths = {name: len(module.path.read_text(encoding="utf-8").splitlines()) for name, module in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 600} == {}


def test_every_argument_is_annotated() -> None:
    """Kernels are Warp's affair; the context of an autograd function has no public type."""
    bare = []
    for module in MODULES.values():
        for function in ast.walk(module.tree):
            if isinstance(function, ast.FunctionDef) and not any("no_type_check" in ast.unparse(d) for d in function.decorator_list):
                arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
                bare += [
                    f"{module.name}:{function.lineno} {argument.arg}"
                    for argument in arguments
                    if argument.annotation is None and argument.arg not in ("self", "cls", "ctx")
                ]
    assert bare == []


def test_settings_are_not_handed_down() -> None:
    """References into a bag of settings, per thousand lines: a function takes the values it uses."""
    bags = re.compile(r"\b(config|cfg|options|opts|args|flags)$")
    found = [
        f"{module.name}:{node.lineno}"
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute) and bags.search(ast.unparse(node.value))
    ]
    assert len(found) <= 3 * LINES / 1000, found


def test_dictionaries_with_string_keys_are_rare() -> None:
    annotations = ("Float", "Int", "Bool", "UInt8", "Shaped", "Literal", "Annotated")
    found = [
        f"{module.name}:{node.lineno}"
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        and ast.unparse(node.value).split(".")[-1] not in annotations
    ]
    assert len(found) <= 2.5 * LINES / 1000, found


def test_loops_do_not_ask_for_our_own_types() -> None:
    own = {node.name for module in MODULES.values() for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)}
    asked = [
        f"{module.name}:{call.lineno}"
        for module in MODULES.values()
        for loop in ast.walk(module.tree)
        if isinstance(loop, ast.For | ast.While)
        for call in ast.walk(loop)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "isinstance"
        if any(isinstance(name, ast.Name) and name.id in own for name in ast.walk(call.args[1]))
    ]
    assert asked == []
