"""The import order of docs/architecture.md holds, and importing the package is cheap."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import reges_index

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "reges_index"
TABLE = re.findall(
    r"^\| `reges_index/([\w.]+?)/?` \|", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.M
)
ORDER = [name.removesuffix(".py") for name in TABLE]


@cache
def _imports(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Return the imports of a module, also lazy ones, not those for type checkers."""

    def inside(node: ast.AST):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            nodes = node.orelse
        else:
            nodes = ast.iter_child_nodes(node)
        for child in nodes:
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child
            elif not isinstance(child, ast.expr):
                yield from inside(child)

    return tuple(inside(ast.parse(path.read_text("utf-8"))))


def _runtime_imports(path: Path):
    """Yield (module, line) of imports inside the package."""
    for node in _imports(path):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import on line {node.lineno}"
            if node.module == "reges_index":
                yield from ((f"reges_index.{alias.name}", node.lineno) for alias in node.names)
            elif (node.module or "").startswith("reges_index."):
                yield node.module, node.lineno
        else:
            yield from ((a.name, node.lineno) for a in node.names if a.name.startswith("reges_index."))


def _part(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def test_table_lists_every_folder():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    files = {"errors", "files", "_lazy", "driver", "pipeline", "presets", "settings", "remote"}
    assert folders == set(ORDER) - files
    assert len(ORDER) == len(set(ORDER))


def test_imports_go_up_the_table_only():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        part = _part(path)
        if part == "__init__":
            continue
        for module, line in _runtime_imports(path):
            other = module.split(".")[1]
            if other in ("__version__", part):
                continue
            place, from_place = (ORDER.index(name) if name in ORDER else None for name in (other, part))
            if place is None or from_place is None or place > from_place:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_modules_import_each_other_in_no_circle():
    """Not even inside a folder, and imports inside functions count too."""
    graph: dict[str, set[str]] = {}
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    packages = {name for name, path in paths.items() if path.stem == "__init__"}
    for name, path in paths.items():
        if name == "reges_index":
            continue
        graph[name] = set()
        for module, _ in _runtime_imports(path):
            # A package's names are loaded from its modules when they are first used.
            graph[name] |= _homes(path, module, paths) if module in packages else {module}
    seen: dict[str, bool] = {}  # False while it is on the path

    def visit(module: str, path: tuple[str, ...]) -> None:
        if seen.get(module) is False:
            pytest.fail(" -> ".join((*path[path.index(module) :], module)))
        if module in seen or module not in graph:
            return
        seen[module] = False
        for other in sorted(graph[module]):
            visit(other, (*path, module))
        seen[module] = True

    for module in sorted(graph):
        visit(module, ())


def _homes(path: Path, package: str, paths: dict[str, Path]) -> set[str]:
    """Return the modules that the names come from which a module imports from a package."""
    names = {
        alias.name
        for node in _imports(path)
        if isinstance(node, ast.ImportFrom) and node.module == package
        for alias in node.names
    }
    modules = {f"{package}.{name}" for name in names} & set(paths)
    # The package shows its names to type checkers, so these imports are read here.
    for node in _shown(paths[package]):
        if (node.module or "").startswith(f"{package}."):
            modules |= {node.module for alias in node.names if (alias.asname or alias.name) in names}
    return modules


@cache
def _shown(path: Path) -> tuple[ast.ImportFrom, ...]:
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return tuple(node for node in nodes if isinstance(node, ast.ImportFrom))


def test_no_module_is_too_long_to_read():
    """About 600 lines are what one reads in one go; this is where a module must be taken apart."""
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: size for name, size in sizes.items() if size > 700} == {}


def test_import_is_light():
    program = (
        "import sys, time; start = time.process_time(); import reges_index; "
        "took = time.process_time() - start; "
        "heavy = [m for m in ('torch', 'transformers', 'llama_index', 'chromadb') if m in sys.modules]; "
        "print(took, heavy)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    took, heavy = run.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert float(took) < 0.5


@pytest.mark.parametrize("name", reges_index.__all__)
def test_public_names_import(name):
    assert getattr(reges_index, name).__name__.split(".")[-1] == name


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Recomendation"):
        reges_index.Recomendation  # noqa: B018
    assert set(reges_index.__all__) <= set(dir(reges_index))
