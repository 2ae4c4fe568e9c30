"""Imports point one way: cli -> jobs -> stores -> core, lazy and verification beside jobs' top."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "tileconv"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of tileconv, besides errors, itself, and the version.
ALLOWED = {
    "errors": set(),
    "core": set(),
    "stores": {"core"},
    "jobs": {"core", "stores"},
    "lazy": {"core", "stores", "jobs"},
    "verification": {"core", "stores", "jobs"},
    "ending": set(),
    "stopping": {"ending"},
    "cli": {"core", "stores", "jobs", "verification", "stopping"},
    "__main__": {"cli", "stopping", "ending"},
    "__init__": {"jobs", "lazy", "verification"},
}
# Packages that the pure core must do without.
NOT_IN_CORE = {"dask", "distributed", "zarr", "tifffile", "imagecodecs", "click", "rich", "msgspec"}
# Imported inside functions only: heavy, or not needed by every run.
LATE = {"dask", "distributed", "zarr", "rich", "numba", "scipy", "tifffile", "imagecodecs"}


def part(module: str) -> str:
    """The part of the house a module is in: ``tileconv.core.grid`` -> ``core``."""
    pieces = module.split(".")
    name = pieces[1] if len(pieces) > 1 else "__init__"
    return name.removesuffix("_options")


def imports(path: Path):
    """(module, whether inside a function) for each import of a file."""
    tree = ast.parse(path.read_text())
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module, id(node) in inner


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path):
    name = ".".join(("tileconv", *path.relative_to(PACKAGE).with_suffix("").parts))
    here = part(name.removesuffix(".__init__"))
    for module, _ in imports(path):
        top = module.split(".")[0]
        if top == "tileconv":
            there = part(module)
            if there not in {here, "errors", "__init__"}:
                assert there in ALLOWED[here], f"{name} imports {module}"
        elif here in {"core", "errors"}:
            assert top not in NOT_IN_CORE, f"{name} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_heavy_packages_and_doors_are_imported_late(path):
    """An import inside a function hides a dependency; it has to buy start-up time."""
    for module, inside in imports(path):
        if inside and module.split(".")[0] == "tileconv":
            target = Path(*module.split(".")).with_suffix(".py")
            heavy = PACKAGE.parent / target
            doors = {"cli", "lazy", "__init__", "__main__"}
            here = part("tileconv." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
            assert here in doors or _is_heavy(heavy), f"{path} imports {module} in a function"


def _is_heavy(path: Path) -> bool:
    """Whether a module, or one it imports, needs a package that is slow to import."""
    seen, waiting = set(), [path]
    while waiting:
        current = waiting.pop()
        if current in seen or not current.exists():
            continue
        seen.add(current)
        for module, _ in imports(current):
            if module.split(".")[0] in LATE:
                return True
            if module.startswith("tileconv"):
                waiting.append(PACKAGE.parent / Path(*module.split(".")).with_suffix(".py"))
    return False


def test_a_threaded_job_imports_neither_dask_nor_scipy_signal(tmp_path):
    import subprocess

    code = (
        "import sys, tileconv\n"
        "tileconv.run({'input': {'sample': 'step', 'shape': '64x64'}, 'kernel': {'name': 'box'},"
        " 'output': {'path': sys.argv[1]}})\n"
        "assert not {'dask', 'distributed', 'scipy.signal', 'click'} & set(sys.modules)\n"
    )
    for name in ("out.tif", "out.zarr"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
