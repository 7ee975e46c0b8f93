"""Pages that MkDocs generates while it builds the site: components, API, notebooks, changes and contributing."""

from __future__ import annotations

import ast
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # beeline of this checkout, and the modules beside this one

from beeline.config.catalogue import CATALOGUE  # noqa: E402
from beeline.config.docs import explain  # noqa: E402

FOLDERS = ("core", "paths", "times", "couplings", "fields", "solvers", "density", "sampling", "objectives", "training",
           "distillation", "data", "config", "evaluation", "runs", "hub", "estimators", "recipes")  # fmt: skip
# what the API pages have beside the names of `import beeline as bl`
MORE = {
    "core": [f"beeline.core.protocols.{name}" for name in ("flows", "objectives", "training", "data")],
    "config": ["beeline.config.build", "beeline.config.registry"],
    "training": ["beeline.training.callbacks"],
    "distillation": ["beeline.distillation.finetune"],
    "testing": ["beeline.testing.components", "beeline.testing.flows"],
}


def on_config(config: Any) -> Any:
    """Add the generated pages to the navigation."""
    reference = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    for entry in reference:
        if "API" in entry:
            entry["API"] = ["reference/api/index.md", *(f"reference/api/{name}.md" for name in api_pages())]
        if "Components" in entry:
            entry["Components"] = ["components/index.md", *(f"components/{kind}.md" for kind in sorted(CATALOGUE))]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to the files of the site."""
    pages = {f"components/{kind}.md": component_page(kind) for kind in CATALOGUE}
    pages["components/index.md"] = component_index()
    pages |= {f"reference/api/{name}.md": text for name, text in api_pages().items()}
    pages["reference/api/index.md"] = api_index()
    pages["changes.md"] = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    pages["contributing.md"] = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text, images = notebook(path)
        pages[f"notebooks/{path.stem}.md"] = text
        for name, content in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_post_build(config: Any) -> None:
    """Refuse a site that loads anything from another host."""
    found = {
        f"{path.relative_to(config.site_dir)}: {url}"
        for path in Path(config.site_dir).rglob("*")
        if path.suffix in (".html", ".css")
        for url in external(path.read_text(encoding="utf-8"), path.suffix == ".css")
    }
    if found:
        raise PluginError("the site requests files from other hosts: " + "; ".join(sorted(found)[:5]))


class Requests(HTMLParser):
    """Collects what a browser loads with a page; links that a reader may follow are not part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        loads = [given.get("src"), given.get("data"), given.get("poster"), given.get("srcset")]
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "alternate"):
            loads.append(given.get("href"))
        self.urls += [url for url in loads if url]


def external(text: str, css: bool = False) -> list[str]:
    """Addresses on other hosts that a browser requests when it shows a page or a style sheet."""
    parser = Requests()
    if not css:
        parser.feed(text)
    urls = parser.urls + re.findall(r"(?:url\(|@import )['\"]?([^'\")\s;]+)", text if css else "")
    return [url for url in urls if re.match(r"(https?:)?//", url)]


def component_index() -> str:
    """The list of all components by kind, one line each."""
    lines = ["# Components", ""]
    lines += ["Everything that can be named on the command line, in a recipe or in a file, by kind.  `beeline list`"]
    lines += ["prints these lists, and `beeline describe NAME` a single component.", ""]
    for kind in sorted(CATALOGUE):
        names = ", ".join(f"[{name}]({kind}.md#{kind}.{name})" for name in CATALOGUE[kind])
        lines += [f"**[{kind}]({kind}.md)**: {names}", ""]
    return "\n".join(lines)


def component_page(kind: str) -> str:
    """The components of a kind, from their docstrings and the comments beside their settings."""
    lines = [f"# {kind.replace('_', ' ').capitalize()}", "", f"Components of the kind `{kind}`.", ""]
    for name in CATALOGUE[kind]:
        page = explain(kind, name)
        lines += [f"## {name} {{ #{kind}.{name} }}", "", markdown(page.sentence), ""]
        lines += ["```text", *page.formula.splitlines(), "```", ""] if page.formula else []
        lines += [part for text in (page.assumes, page.source) if text for part in (markdown(text), "")]
        if page.settings:
            lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
            for name_, type_, default, meaning in page.settings:
                lines.append(f"| `{name_}` | {code(type_)} | {code(default)} | {markdown(meaning)} |")
            lines.append("")
        lines += ["```pycon", *page.example.splitlines(), "```", ""] if page.example else []
    return "\n".join(lines)


def code(text: str) -> str:
    """Text as inline code in a cell of a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def markdown(text: str) -> str:
    """Plain text of a docstring, with what Markdown would read as markup escaped."""
    parts = re.split(r"(``[^`]+``)", text)
    return "".join(part if i % 2 else re.sub(r"([*_<>|\[\]])", r"\\\1", part) for i, part in enumerate(parts))


def public() -> dict[str, str]:
    """The names of ``import beeline as bl`` with the modules that define them."""
    tree = ast.parse((ROOT / "beeline" / "__init__.py").read_text(encoding="utf-8"))
    return {
        alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("beeline.")
        for alias in node.names
        if node.module != "beeline.core.namespaces"
    }


def api_pages() -> dict[str, str]:
    """One page per folder: the public names that it defines, and its kinds of components."""
    pages = {}
    for folder in (*FOLDERS, "testing"):
        names = [f"{module}.{name}" for name, module in public().items() if module.split(".")[1] == folder]
        kinds = sorted(k for k, v in CATALOGUE.items() if any(p.startswith(f"beeline.{folder}.") for p in v.values()))
        if not names and folder not in MORE and not kinds:
            continue
        summary = ast.get_docstring(ast.parse((ROOT / "beeline" / folder / "__init__.py").read_text(encoding="utf-8")))
        lines = [f"# {folder}", "", summary or "", ""]
        if kinds:
            lines += ["Components: " + ", ".join(f"[{kind}](../../components/{kind}.md)" for kind in kinds) + ".", ""]
        for name in names:
            lines += [f"::: {name}", ""]
        for module in MORE.get(folder, ()):
            lines += [f"::: {module}", "    options:", "      show_root_full_path: true", ""]
        pages[folder] = "\n".join(lines)
    return pages


def api_index() -> str:
    """The table of the public names."""
    lines = ["# API", "", "The names of `import beeline as bl`, by the folder that defines them.", ""]
    lines += ["| folder | names |", "|---|---|"]
    for folder in api_pages():
        names = [name for name, module in public().items() if module.split(".")[1] == folder]
        links = ", ".join(f"[`{name}`][{public()[name]}.{name}]" for name in names)
        lines.append(f"| [{folder}]({folder}.md) | {links} |")
    lines += ["", "The folders are attributes of the package as well: `bl.paths.Linear`, `bl.solvers.HEUN`,"]
    lines += [
        "`bl.times.LogitNormal`.  Their components are on the pages of the [components](../../components/index.md)."
    ]
    return "\n".join(lines) + "\n"


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """An executed notebook as Markdown, and its pictures by name."""
    import nbformat
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_notebook_node(nbformat.read(path, as_version=4))
    images = {f"{path.stem}-{name}": content for name, content in resources["outputs"].items()}
    for name in resources["outputs"]:
        text = text.replace(f"({name})", f"({path.stem}-{name})")
    return text, images
