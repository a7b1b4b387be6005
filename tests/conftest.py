import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Under importlib mode the folder of the tests is not on the path; this lets them share helpers.py.
sys.path.insert(0, str(Path(__file__).parent))

# Few examples are for tests that run several times over, once for each arithmetic.
for profile, max_examples in (("deterministic", 40), ("few", 10)):
    settings.register_profile(
        profile,
        derandomize=True,
        deadline=None,
        max_examples=max_examples,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("deterministic")


# The first forward derivative in a process makes torch compile its own rules, with a warning about itself.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))


def pytest_collection_modifyitems(items):
    """JAX starts threads, beside which no process may fork: what uses it comes after the data loaders' workers."""
    items.sort(key=lambda item: "peers" in item.path.name)


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
