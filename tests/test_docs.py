"""The documentation: links resolve, and what the pages name exists."""

import ast
import importlib
import importlib.util
import re
import textwrap
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKDOWN = [
    *sorted(ROOT.glob("*.md")),
    *(file for folder in ("docs", "model_cards") for file in sorted((ROOT / folder).rglob("*.md"))),
    *sorted((ROOT / "scripts" / "results").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path from the root, or a module of the package by its layer; `…` and `*` stand for any name.
NAMED = re.compile(
    r"(?<![\w/.~-])((?:scripts|tests|docs|notebooks|model_cards|reformer_hf)/[\w./*…-]*"
    r"|(?:ops|nn|models|training|hub)/[\w/]+\.py)"
)
MODULE = re.compile(r"-m ((?:scripts|reformer_hf)[\w.]*)")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MADE = re.compile(r"`([\w/.]+)` \(new\)")  # a file that the reader of a page makes
LAYERS = re.compile(r"(?:ops|nn|models|training|hub)/")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:|\{\{", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def missing_names(text: str) -> list[str]:
    """The files and modules that a text names and that do not exist."""
    missing, made = [], set(MADE.findall(text))
    for name in NAMED.findall(text):
        if name in made:
            continue
        path = name.rstrip(".").replace("…", "*")
        path = f"reformer_hf/{path}" if LAYERS.match(path) else path
        # A pattern, or an absent file, which finds nothing either.
        if not next(ROOT.glob(path.rstrip("/")), None):
            missing.append(name)
    for name in MODULE.findall(text):
        path = ROOT / name.rstrip(".").replace(".", "/")
        if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file():
            missing.append(f"-m {name}")
    return missing


def missing_imports(text: str) -> list[str]:
    """The names that a page's code takes from this package and that are not there."""
    missing = []
    made = {name.removesuffix(".py").replace("/", ".") for name in MADE.findall(text)}
    code = "\n".join(textwrap.dedent(block) for block in BLOCK.findall(text))
    for node in ast.walk(ast.parse(code)):
        name = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
        if not name.startswith("reformer_hf") or name in made:
            continue
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            missing.append(name)
            continue
        wanted = [alias.name for alias in node.names]  # type: ignore[union-attr]
        missing += [
            f"{name}.{each}"
            for each in wanted
            if not hasattr(module, each) and not _is_module(f"{name}.{each}")
        ]
    return missing


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    assert missing_names(text) == []
    assert missing_imports(text) == []


def test_the_checks_find_what_is_missing(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c\n[x](page.md#a-b-c) [y](page.md#d) [z](absent.md) [w](https://a.b)\n"
    )
    assert broken_links(page) == ["page.md#d", "absent.md"]
    text = "`scripts/absent.py` scripts/test.sh ops/reference.py nn/absent.py scripts/train_*.py."
    assert missing_names(text) == ["scripts/absent.py", "nn/absent.py"]
    assert missing_names("-m scripts.absent, -m reformer_hf.quickstart.") == ["-m scripts.absent"]
    code = (
        "```python\nfrom reformer_hf import register, absent\nfrom reformer_hf.absent import x\n```"
    )
    assert missing_imports(code) == ["reformer_hf.absent", "reformer_hf.absent"]
    made = "`nn/absent.py` (new), `reformer_hf/absent.py` (new)\n" + code
    assert missing_names(made) == []
    assert missing_imports(made) == ["reformer_hf.absent"]  # `absent` of the package itself


def test_pages_are_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
    lines = {page.name: len(prose(page).splitlines()) for page in PAGES}
    assert {name: count for name, count in lines.items() if count > 150} == {}


def test_every_page_is_in_the_readme():
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages - set(LINK.findall(prose(ROOT / "README.md"))) == set()


def test_the_layers_of_the_readme_run():
    (block,) = (
        block
        for block in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
        if "class Block" in block
    )
    defined: dict = {}
    exec(compile(block, "README.md", "exec"), defined)
    x = torch.randn(2, 100, 32)
    output = defined["Block"](32, 4)(x)
    output.sum().backward()
    assert output.shape == x.shape and output.isfinite().all()
