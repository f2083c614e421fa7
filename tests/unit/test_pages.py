"""Every page: each block is run by a test or marked, each link leads somewhere, and the quotes are the code's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcache.core import errors
from tests.conftest import PROJECT
from tests.support.pages import Block, blocks_of, pages

PAGES = {page.relative_to(PROJECT).as_posix(): page for page in pages()}
RUN_BY = {
    "README.md": {
        "console": "tests/commands/test_docs.py",
        "toml": "tests/commands/test_docs.py",
        "python": "tests/commands/test_docs.py",
        "dockerfile": "tests/commands/test_docs.py",
        "yaml": "tests/commands/test_docs.py",
    },
    "CONTRIBUTING.md": {
        "console": "tests/unit/test_contributing.py",
        "diff": "tests/unit/test_contributing.py",
    },
    "docs/by-id.md": {
        "sh": "tests/commands/test_task_pages.py",
        "python": "tests/commands/test_by_id.py",
    },
    "docs/ci.md": {
        "console": "tests/commands/test_task_pages.py",
        "python": "tests/commands/test_task_pages.py",
    },
    "docs/models-toml.md": {
        "console": "tests/commands/test_docs.py",
        "toml": "tests/commands/test_docs.py",
    },
    "docs/own-image.md": {
        "console": "tests/containers/test_pages.py",
        "dockerfile": "tests/containers/test_own_application.py",
    },
    "docs/python.md": {
        "python": "tests/commands/test_docs.py",
    },
    "docs/check.md": {
        "console": "tests/commands/test_docs.py",
    },
    "docs/compose.md": {
        "console": "tests/containers/test_pages.py",
        "yaml": "tests/containers/test_own_application.py",
    },
    "docs/engines.md": {
        "sh": "tests/versions/test_engines.py",
        "python": "tests/versions/test_engines.py",
        "toml": "tests/versions/test_engines.py",
    },
    "docs/evidence.md": {
        "console": "tests/commands/test_evidence_page.py",
        "json": "tests/commands/test_evidence_page.py",
    },
    "docs/frameworks.md": {
        "python": "tests/commands/test_frameworks.py",
    },
    "docs/image.md": {
        "console": "tests/containers/test_pages.py",
        "yaml": "tests/containers/test_own_application.py",
    },
    "docs/index-id.md": {
        "python": "tests/commands/test_index_recipe.py",
    },
    "docs/kubernetes.md": {
        "yaml": "tests/containers/test_kubernetes_docs.py",
        "console": "tests/containers/test_kubernetes_docs.py",
    },
    "docs/mirrors.md": {
        "console": "tests/commands/test_task_pages.py",
    },
    "docs/moving-over.md": {
        "console": "tests/containers/test_moving_over.py",
        "python": "tests/containers/test_moving_over.py",
        "dockerfile": "tests/containers/test_moving_over.py",
        "yaml": "tests/containers/test_moving_over.py",
    },
    "docs/private-models.md": {
        "console": "tests/commands/test_task_pages.py",
        "toml": "tests/commands/test_task_pages.py",
    },
    "docs/registry.md": {
        "console": "tests/commands/test_registry_page.py",
        "json": "tests/commands/test_registry_page.py",
        "yaml": "tests/commands/test_registry_page.py",
        "sh": "tests/commands/test_registry_page.py",
    },
    "docs/serve.md": {
        "console": "tests/unit/scripts/test_serve.py",
        "python": "tests/unit/scripts/test_serve.py",
    },
    "docs/troubleshooting.md": {
        "console": "tests/commands/test_task_pages.py",
    },
    "docs/updates.md": {
        "console": "tests/commands/test_updates_page.py",
        "yaml": "tests/commands/test_updates_page.py",
    },
}
"""The module that runs, or parses, a page's blocks of a language."""
NOT_RUN_IN_WORDS = re.compile(r"\bnot\b.*\brun\b|\brun\b.*\bnot\b|placeholder", re.IGNORECASE)
CODE = sorted((PROJECT / "modelcache").rglob("*.py"))
ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.CacheModelsError)
}
TROUBLE = (PROJECT / "docs/troubleshooting.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_run_or_marked(name: str) -> None:
    """A page with blocks is named in a module that runs them; a mark has a reason, and a sentence for the reader."""
    blocks = [block for block in blocks_of(PAGES[name]) if block.language not in ("", "text")]
    for block in blocks:
        if block.not_run:
            assert NOT_RUN_IN_WORDS.search(block.lead), f"{where(block)}: no sentence says that it is not run"
    unmarked = [block for block in blocks if not block.not_run]
    for language in {block.language for block in unmarked}:
        found = [block for block in unmarked if block.language == language]
        module = RUN_BY.get(name, {}).get(language)
        assert module, f"{where(found[0])}: name the test that runs it in RUN_BY, or mark it"
        text = (PROJECT / module).read_text()
        named = Path(name).name in text or f'"{Path(name).stem}"' in text
        assert named, f"{module} does not name {name}"
        assert re.search(rf"\b{language}\b", text), f"{module} reads no {language}"
    assert set(RUN_BY.get(name, {})) <= {block.language for block in unmarked}, f"{name} has no such block"


def where(block: Block) -> str:
    """Return the place of a block."""
    return f"{block.page}:{block.line}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them of headings."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    """Relative links and anchors; what is on the web is not asked."""
    page = PAGES[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(there), f"{name}: {target}"


@pytest.mark.parametrize("name", PAGES)
def test_no_page_names_a_path_of_one_machine(name: str) -> None:
    """No home directory and no workspace of whoever wrote it."""
    assert re.findall(r"(?<![\w.$}])/(?:home|root|work|Users)/\S*", PAGES[name].read_text()) == []


@pytest.mark.parametrize("name", ["ci", "decisions", "mirrors", "private-models", "troubleshooting", "README"])
def test_a_page_by_task_is_short(name: str) -> None:
    """At most 200 lines of at most 120 characters; a table's row may be longer."""
    lines = (PROJECT / "docs" / f"{name}.md").read_text().splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_the_index_has_every_page() -> None:
    """docs/README.md leads to each page beside it."""
    shown = set(re.findall(r"\]\(([\w-]+\.md)", (PROJECT / "docs/README.md").read_text()))
    assert shown == {page.name for page in (PROJECT / "docs").glob("*.md")} - {"README.md"}


def quotes() -> list[str]:
    """Return the parts of the messages that the page quotes, between the values that are filled in."""
    tables = TROUBLE.partition("\n## Containers and Kubernetes")[0].partition("\n## ")[2]
    cells = re.findall(r"^\| (`.*?) \| ", tables, re.MULTILINE)
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    return [part.strip() for message in messages for part in message.split("…") if part.strip(" ,:;()")]


def test_troubleshooting_quotes_the_code() -> None:
    """Each quoted part stands in a string of the sources; docstrings and comments do not count."""
    strings = "\n".join(text for path in CODE for text in texts(ast.parse(path.read_text())))
    from_the_system = {"Invalid cross-device link"}
    parts = quotes()
    assert len(parts) > 90
    lacking = [part for part in parts if part.removeprefix("it is ") not in strings and part not in from_the_system]
    assert lacking == []


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield each string of a module, with `…` for what is filled in."""
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) not in documented and isinstance(node, ast.Constant | ast.JoinedStr):
            yield text_of(node)


def text_of(node: ast.expr) -> str:
    """Return the words of a string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_every_class_of_error_has_an_entry(name: str) -> None:
    """Of each class that is raised with words of its own, the page quotes a message."""
    raised = [
        text_of(call.args[0])
        for path in CODE
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name and call.args
    ]
    raised = [text for text in raised if len(text.strip("…: ")) > 3]
    parts = quotes()
    assert not raised or any(part in text for text in raised for part in parts), raised


def test_every_exit_code_leads_to_a_section() -> None:
    """As `exit_codes` has them."""
    shown = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", TROUBLE, re.MULTILINE) for code in row.split(",")}
    assert shown == {*errors.exit_codes(), 129, 130, 143}
