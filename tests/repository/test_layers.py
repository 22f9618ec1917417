"""The house's order: a package imports only those to its left, and nothing goes round in a circle."""

import ast
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDER = ["extraction", "concepts", "importance", "audit", "viz", "conceptatlas"]


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_packages(path):
    parts = (name.split(".") for name in imported_modules(path))
    return {p[1] for p in parts if p[0] == "conceptatlas" and len(p) > 1}


def module_files():
    return [path for package in [*ORDER, "demo"] for path in sorted((ROOT / package).glob("*.py"))]


@pytest.mark.parametrize("path", module_files(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_module_imports_only_packages_to_its_left(path):
    package = path.parent.name
    allowed = {"extraction", "demo"} if package == "demo" else set(ORDER[: ORDER.index(package) + 1])
    if package == "conceptatlas":
        allowed |= {"demo"}
    known = {*ORDER, "demo"}
    assert imported_packages(path) & known <= allowed


def top_level_imports(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    nodes = [n for n in tree.body if n not in guarded]
    for node in itertools.chain.from_iterable(
        ast.walk(n) for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))
    ):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_no_module_imports_itself_through_others():
    names = {
        f"conceptatlas.{p.parent.name}.{p.stem}" if p.parent.name != "conceptatlas" else f"conceptatlas.{p.stem}": p
        for p in module_files()
    }
    graph = {
        name: {m for m in top_level_imports(path) if m in names}
        for name, path in names.items()
        if not name.endswith("__init__")
    }
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, f"cycle: {' -> '.join([*open_, name])}"
        if name in done:
            return
        open_.append(name)
        for other in graph.get(name, ()):
            visit(other)
        open_.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_the_order_is_checked_on_an_arrow_that_runs_back(tmp_path):
    wrong = tmp_path / "module.py"
    wrong.write_text("from conceptatlas.viz import export_site\n")
    assert imported_packages(wrong) >= {"viz"}
