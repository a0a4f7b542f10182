"""The house rules that a machine can check: who imports whom, file length, docstrings, error codes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "service", "stancewire", "training")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = {"torch", "transformers", "datasets", "accelerate", "safetensors", "sklearn", "matplotlib", "onnx"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Top-level names of every import in a file, and whether it runs when the module is loaded."""
    tree = ast.parse(path.read_text("utf-8"))
    outer = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], id(node) in outer
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0], id(node) in outer


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_direction(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    names = {name for name, _ in imports(path)}
    loaded = {name for name, at_load in imports(path) if at_load}
    if package == "models":
        assert not names & {"service", "training", "stancewire", "fastapi"}
        assert path.name == "engine_torch.py" or not names & HEAVY
    if package == "service":
        assert not names & ({"training", "stancewire", "mlflow"} | HEAVY)
    if package == "training":
        assert not names & {"service", "stancewire", "fastapi", "uvicorn"}
    if package == "stancewire":
        assert not loaded & ({"training", "service", "mlflow", "fastapi"} | HEAVY)
    if "mlflow" in names:
        assert path.name in {"registry.py", "aliases.py", "gate.py", "tracking.py", "tune.py", "packaging.py", "pyfunc.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short_and_documented(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 300
    if text.strip():
        assert ast.get_docstring(tree), "a module's docstring is its contract"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_error_codes_are_unique() -> None:
    from models import errors

    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.StancewireError)]
    assert len({kind.code for kind in classes}) == len(classes)
