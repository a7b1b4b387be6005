import ast
import subprocess
import sys
from pathlib import Path

import pytest

import implicitlayers as il

PACKAGE = Path(il.__file__).parent
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if "models" not in path.relative_to(PACKAGE).parts]


def run(code, cwd):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120)


ONLY_TORCH_AND_NUMPY = f"""
import sys
sys.path.insert(0, {str(PACKAGE.parent)!r})
import numpy, torch
before = set(sys.modules)
class Blocker:
    def find_spec(self, name, path=None, target=None):
        allowed = {{"implicitlayers", "torch", "numpy", "sympy", "mpmath"}} | set(sys.stdlib_module_names)
        if name.partition(".")[0] not in allowed:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
import implicitlayers as il
il.Ridge(0.1)(torch.randn(4, 3), torch.randn(4, 2))
il.MulticlassSVM(0.1, 0.1)(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
new = {{name.partition(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
assert new <= {{"implicitlayers", "torch", "numpy", "sympy", "mpmath"}}, new
assert not any(name.startswith("implicitlayers.models") for name in sys.modules)
print("imported", il.__file__)
"""


def test_needs_torch_and_numpy_only(tmp_path):
    """Everything else (lightning, matplotlib, ...) is blocked while the package is imported and used."""
    done = run(ONLY_TORCH_AND_NUMPY, tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(PACKAGE) in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_does_not_import_its_models(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = getattr(node, "module", None) or ""
        assert not any("models" in f"{module}.{name}".split(".") for name in names), ast.unparse(node)


def test_plain_models_cannot_be_imported(tmp_path):
    """From an empty folder there is no such module; beside the folder of that name the message tells what to do."""
    assert "No module named 'models'" in run("import models", tmp_path).stderr
    root = Path(__file__).parents[1]
    assert "import implicitlayers.models" in run("import models", root).stderr


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()


def test_public_names_exist_and_are_documented():
    assert il.__all__ == sorted(il.__all__)
    for name in il.__all__:
        documented = getattr(il, name)
        assert documented.__doc__, name
        assert not documented.__doc__.startswith(f"{name}("), f"{name} has the docstring that dataclasses make up"


@pytest.mark.parametrize("name", [n for n in dir(il.functional) if n.islower() and not n.startswith("_")])
def test_functions_are_documented(name):
    assert getattr(il.functional, name).__doc__


@pytest.mark.parametrize("layer", [il.Ridge, il.GroupLasso, il.MulticlassSVM])
def test_layers_document_their_methods(layer):
    for method in (layer.solve, layer.forward):
        assert method.__doc__
    assert "min over W" in layer.__doc__
