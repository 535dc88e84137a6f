"""Makes pages of files outside the documentation: the changelog, how to contribute, the examples and the notebooks.

The pages in docs/ link to those files by their paths in the repository, so that they can be read there. Here the links are turned into
links between pages.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGE_OF = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def page_of_program(path: Path) -> str:
    """Return an example as a page: its docstring, then its source."""
    source = path.read_text(encoding="utf-8")
    summary, _, rest = (ast.get_docstring(ast.parse(source)) or path.stem).partition("\n")
    return f'# {path.stem}\n\n{summary}\n{rest}\n\n```python title="examples/{path.name}"\n{source}```\n'


def page_of_notebook(path: Path) -> str:
    """Return a notebook as a page: its text, and its code between fences."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text.replace("](../docs/", "](../") if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def modules_of(package: str) -> str:
    """Name the modules of a package and what it exports of each, or all of them if it exports nothing."""
    folder = (ROOT / "src").joinpath(*package.split("."))
    exported: dict[str, list[str]] = {}
    for node in ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(package):
            exported[node.module] = [name.name for name in node.names]
    if not exported:
        return "\n\n".join(f"::: {package}.{path.stem}" for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_"))
    return "\n\n".join(f"::: {module}\n    options:\n      members: [{', '.join(names)}]" for module, names in exported.items())


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages made here."""
    for name, page in PAGE_OF.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=re.sub(r"\]\(docs/", "](", text)))
    for path in sorted((ROOT / "examples").glob("*.py")):
        files.append(File.generated(config, f"examples/{path.stem}.md", content=page_of_program(path)))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page_of_notebook(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their pages, and ``::: package.*`` into all modules of a package."""
    up = "../" * page.file.src_uri.count("/")
    markdown = re.sub(r"\]\(\.\./(examples|notebooks)/(\w+)\.(?:py|ipynb)\)", r"](\1/\2.md)", markdown)
    markdown = re.sub(r"\]\(\.\./(examples|notebooks)/?\)", r"](\1.md)", markdown)
    for name, target in PAGE_OF.items():
        markdown = re.sub(rf"\]\((?:\.\./)*{re.escape(name)}\)", f"]({up}{target})", markdown)
    return re.sub(r"^::: ([\w.]+)\.\*$", lambda match: modules_of(match[1]), markdown, flags=re.MULTILINE)
