"""torch.compile and torch.export: what works, and what is refused."""

import inspect
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import labels, normal

import implicitlayers as il


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(6, 8).double()
        self.layer = il.GroupLasso(0.05, 0.1)

    def forward(self, X, Y):
        return self.layer(torch.relu(self.encoder(X)), Y).square().sum()


@pytest.fixture
def inputs():
    return normal(12, 6), normal(12, 2, seed=1)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_with_a_layer_is_the_model(inputs):
    """The encoder is compiled; the graph breaks at the layer, which runs as it is."""
    torch._dynamo.reset()
    model = Model()
    model(*inputs).backward()
    expected = model.encoder.weight.grad.clone()
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager")
    value = compiled(*inputs)
    value.backward()
    torch.testing.assert_close(value, model(*inputs))
    torch.testing.assert_close(model.encoder.weight.grad, expected)


class Functional(torch.nn.Module):
    """A function of the library, a solution, a path and a user's own solver inside one network."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(6, 8).double()
        self.l1s = torch.tensor([0.2, 0.1], dtype=torch.float64)
        self.layer, self.machine = il.Lasso(0.1), il.MulticlassSVM(0.1, 0.02, n_classes=2)
        self.labels = labels(12, k=2)

    def forward(self, X, Y):
        X = torch.relu(self.encoder(X))
        parts = [
            il.functional.ridge(X, Y, l2=0.1),
            self.layer.solve(X, Y).coef,
            self.layer.path(X, Y, self.l1s).coef,
            self.layer.l1_max(X, Y),
            self.machine(X, self.labels),
            least_squares(X, Y),
        ]
        return torch.stack([part.square().sum() for part in parts]).sum()


@il.implicit.argmin(lambda W, X, Y: (X @ W - Y).square().sum() / 2 + W.square().sum() / 2)
def least_squares(X, Y):
    return torch.linalg.solve(X.T @ X + torch.eye(X.shape[1], dtype=X.dtype), X.T @ Y)


def value_and_gradient(model, function, inputs):
    model.zero_grad()
    value = function(*inputs)
    value.backward()
    return value.detach(), model.encoder.weight.grad.clone()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "calls"), [(Model, 1), (Functional, 6)])
def test_the_graph_breaks_at_calls_and_nowhere_else(model, calls, inputs):
    """Dynamo traced into validation and solvers (case 34)."""
    torch._dynamo.reset()
    model = model()
    expected = value_and_gradient(model, model, inputs)
    found = value_and_gradient(model, torch.compile(model, backend="aot_eager"), inputs)
    torch.testing.assert_close(found, expected)
    torch._dynamo.reset()
    assert 1 <= torch._dynamo.explain(model)(*inputs).graph_break_count <= calls


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", [Model, Functional])
def test_inductor_compiles_what_is_around_a_layer(model, inputs):
    """It had not finished after 100 seconds (case 34)."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++, which inductor compiles with")
    torch._dynamo.reset()
    model = model()
    expected = value_and_gradient(model, model, inputs)
    compiled = torch.compile(model)
    for _ in range(2):
        torch.testing.assert_close(value_and_gradient(model, compiled, inputs), expected)


def test_who_does_not_compile_does_not_import_dynamo():
    script = "import sys, torch, implicitlayers as il; il.Ridge(0.1)(torch.eye(3), torch.eye(3)); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "implicitlayers" in found
    assert "torch._dynamo" not in found


@pytest.mark.parametrize("name", il.layers.__all__)
def test_entries_keep_their_signatures_and_docstrings(name):
    layer = getattr(il, name)
    assert list(inspect.signature(layer.forward).parameters)[:3] == ["self", "X", "Y"]
    for method in ("forward", "solve", "l1_max", "path"):
        assert not hasattr(layer, method) or getattr(layer, method).__doc__
    assert "sample_weight" in inspect.signature(layer.solve).parameters


@pytest.mark.filterwarnings("ignore")
def test_one_graph_is_refused(inputs):
    """A solver loops until the data are solved: no graph of fixed length holds it."""
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        torch.compile(Model(), backend="eager", fullgraph=True)(*inputs)


@pytest.mark.filterwarnings("ignore")
def test_export_is_refused(inputs):
    """For the same reason: what a solver does next depends on the data."""
    with pytest.raises(RuntimeError, match="data-dependent"):
        torch.export.export(Model(), inputs)
