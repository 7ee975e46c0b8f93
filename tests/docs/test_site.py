"""The pages that are generated while the documentation is built, and the notebooks."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from beeline.config.catalogue import CATALOGUE

DOCS = Path(__file__).parent.parent.parent / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def module(name: str) -> Any:
    """A module of the folder of the documentation."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def hooks() -> Any:
    pytest.importorskip("mkdocs")
    return module("hooks")


def test_every_component_is_on_the_page_of_its_kind(hooks: Any) -> None:
    index = hooks.component_index()
    for kind in CATALOGUE:
        page = hooks.component_page(kind)
        assert " at 0x" not in page, "an address would make the page another one every time"
        for name in CATALOGUE[kind]:
            assert f"## {name} {{ #{kind}.{name} }}" in page
            assert f"({kind}.md#{kind}.{name})" in index


def test_every_public_name_is_on_a_page_of_the_api(hooks: Any) -> None:
    import beeline

    pages = "\n".join(hooks.api_pages().values())
    assert {"Batch", "Flow", "Sampler", "train", "fit", "load", "log_prob"} <= set(hooks.public())
    for name, place in hooks.public().items():
        assert f"::: {place}.{name}\n" in pages
        assert getattr(beeline, name) is not None


def test_requests_to_other_hosts_are_found_and_links_are_not(hooks: Any) -> None:
    page = '<link rel="stylesheet" href="https://fonts.example/a.css"><a href="https://example.org">link</a>'
    assert hooks.external(page) == ["https://fonts.example/a.css"]
    assert hooks.external('<script src="//cdn.example/x.js"></script><img src="demo.png">') == ["//cdn.example/x.js"]
    assert hooks.external("a { background: url(https://example.org/a.png) }", css=True) == ["https://example.org/a.png"]
    assert hooks.external('<link rel="canonical" href="https://example.org"><img src="data:image/png;base64,AA">') == []


def test_formulas_and_examples_become_code() -> None:
    pytest.importorskip("griffe")
    fenced = module("docstrings").fenced
    text = "A sentence.\n\nx = a_b * c_d\nAssumes nothing odd.\nSource: A paper.\n\n>>> 1 + 1\n2\n"
    wanted = "A sentence.\n\n```text\nx = a_b * c_d\n```\n\nAssumes nothing odd.\n\nSource: A paper.\n\n"
    assert fenced(text, True) == wanted + "```pycon\n>>> 1 + 1\n2\n```"
    assert "```text" not in fenced(text, False)


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_is_executed_and_small(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(output.get("data", {}).get("image/png") for cell in cells for output in cell.outputs)
    assert not any(
        output.output_type == "error" or output.get("name") == "stderr" for c in cells for output in c.outputs
    )
    assert path.stat().st_size < 400_000
    assert not re.search(r"/(tmp|home|work)/", path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path: Path, tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=900, kernel_name="python3").execute(cwd=str(tmp_path))
