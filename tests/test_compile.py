"""torch.compile and torch.export: what works, and what is refused."""

import pytest
import torch
from helpers import normal

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
