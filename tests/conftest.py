"""Settings and fixtures of all tests."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import slurm

# Tests run in as many processes as there are cores, so that more threads in each would be in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What an example costs depends on the machine's other work; speed is measured in `benchmarks`.
settings.register_profile("triptych", deadline=None)
settings.load_profile("triptych")

LONGEST = (
    "test_training.py",
    "test_slurm.py",
    "test_parallel.py",
    "test_data.py",
    "test_objective.py",
    "test_determinism.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the longest files started first: a file's tests are run by one process, and none shall wait for another."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def cluster() -> Iterator[slurm.Cluster]:
    """A Slurm of two nodes that all tests of a process share; each leaves its queue empty and its nodes up."""
    if absent := slurm.missing():
        message = f"no {', '.join(absent)}: install Slurm, on Debian with `apt-get install slurm-wlm munge`"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    with slurm.Cluster() as running:
        yield running
