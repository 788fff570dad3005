"""The path is the architecture: each package imports only those named before it, and the pure half needs no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "miscompute"

ORDER = (
    "formats",
    "hardware",
    "fault",
    "error",
    "outcome",
    "injection",
    "validation",
    "mitigation",
    "tasks",
    "experiment",
    "analysis",
    "campaigns",
    "pvf",
    "report",
    "commands",
)
ALLOWED = {package: frozenset(ORDER[:place]) for place, package in enumerate(ORDER)}
# The slow arrays judge what is lowered and injected, so they must not lean on it.
ALLOWED["reference"] = frozenset({"formats", "hardware", "fault"})
ALLOWED["validation"] |= {"reference"}
EVERYONES = ("_invalid", "_workers")
PURE = ("formats", "hardware", "fault", "error", "outcome", "analysis", "campaigns")


def imported(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Give the line and the absolute name of everything a module of the package imports, lazily or for types too."""
    inside = (root.name, *path.relative_to(root).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            # Of `from .. import fault` the name may be a module; of `from ..fault import Fault` the module is enough.
            yield from ((node.lineno, ".".join((*module, alias.name))) for alias in node.names)


def violations(root: Path) -> list[str]:
    """Name the imports that break the order, one line each."""
    found = []
    for path in sorted(root.rglob("*.py")):
        where = path.relative_to(root)
        if len(where.parts) == 1:  # __init__, __main__ and what imports nothing
            if where.stem not in ("__init__", "__main__", *EVERYONES):
                found.append(f"{where}: a module outside the packages; ORDER has no place for it")
            if where.stem not in EVERYONES:
                continue
        package = where.with_suffix("").parts[0]
        if len(where.parts) > 1 and package not in ALLOWED:
            found.append(f"{where}: package {package} has no place in ORDER")
            continue
        for line, name in imported(path, root):
            top, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if top == root.name and other not in {package, *EVERYONES, *ALLOWED.get(package, ())}:
                found.append(f"{where}:{line}: {package} must not import {name}")
    return found


def test_each_package_imports_only_from_those_before_it() -> None:
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("module", "statement", "found"),
    [
        ("fault/_site.py", "from ..formats import Format", None),
        ("fault/_site.py", "from .._invalid import InvalidInput", None),
        ("fault/_site.py", "from ._effect import Effect", None),
        ("fault/_site.py", "import numpy", None),
        ("fault/_site.py", "import made_up_other.report", None),
        ("fault/_site.py", "from ..error import lower", "fault must not import made_up.error.lower"),
        ("fault/_site.py", "from .. import error", "fault must not import made_up.error"),
        ("fault/_site.py", "from .. import InvalidInput", "fault must not import made_up.InvalidInput"),
        ("fault/_site.py", "import made_up.report", "fault must not import made_up.report"),
        ("fault/_site.py", "import made_up", "fault must not import made_up"),
        ("fault/_site.py", "from made_up.report import chart", "fault must not import made_up.report.chart"),
        ("fault/__init__.py", "from ..error import lower", "fault must not import made_up.error.lower"),
        ("fault/deep/_site.py", "from ...error import lower", "fault must not import made_up.error.lower"),
        ("fault/_site.py", "def f():\n    from ..error import lower", "fault must not import made_up.error.lower"),
        ("fault/_site.py", "if TYPE_CHECKING:\n    from ..error import Error", "fault must not import"),
        ("reference/_nvdla.py", "from ..fault import Fault", None),
        ("reference/_nvdla.py", "from ..error import lower", "reference must not import made_up.error.lower"),
        ("report/_chart.py", "from ..reference import run", "report must not import made_up.reference.run"),
        ("_invalid.py", "from .formats import Format", "_invalid must not import made_up.formats.Format"),
        ("_workers.py", "from .pvf import Engine", "_workers must not import made_up.pvf.Engine"),
        ("__init__.py", "from .report import chart", None),
        ("__main__.py", "from .report import chart", None),
        ("_helpers.py", "", "ORDER has no place"),
        ("utils/_strings.py", "", "utils has no place in ORDER"),
    ],
)
def test_the_order_is_held(tmp_path: Path, module: str, statement: str, found: str | None) -> None:
    path = tmp_path / "made_up" / module
    path.parent.mkdir(parents=True)
    path.write_text(statement)
    problems = violations(tmp_path / "made_up")
    assert len(problems) == (found is not None)
    assert found is None or found in problems[0]


def _loads(names: Sequence[str], statements: Sequence[str]) -> list[tuple[str, str]]:
    """Carry statements out one after the other in a new process; give which of the names is loaded after which."""
    code = "import sys\n" + "\n".join(
        f"{one}\nprint(*[name in sys.modules for name in {names!r}])" for one in statements
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    said = zip(product(statements, names), run.stdout.split(), strict=True)
    return [found for found, loaded in said if loaded == "True"]


def test_the_pure_half_imports_without_what_takes_seconds() -> None:
    statements = ["import miscompute", *(f"import miscompute.{package}" for package in PURE)]
    assert _loads(["torch", "scipy.stats", "scipy.optimize"], statements) == []  # else the first says where it is


def test_an_import_of_torch_would_be_seen() -> None:
    # A stand-in of that name: loading the real one takes seconds and proves no more.
    made = "import types; sys.modules['torch'] = types.ModuleType('torch'); import torch"
    assert _loads(["torch", "json"], ["import math", made, "import json"]) == [
        (made, "torch"),
        ("import json", "torch"),
        ("import json", "json"),
    ]
