"""Settings and fixtures of all tests."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import slurm

# What an example costs depends on the machine's other work; speed is measured in `benchmarks`.
settings.register_profile("triptych", deadline=None)
settings.load_profile("triptych")


@pytest.fixture(scope="session")
def cluster() -> Iterator[slurm.Cluster]:
    """A Slurm of two nodes that all tests of the session share; each leaves its queue empty and its nodes up."""
    if absent := slurm.missing():
        message = f"no {', '.join(absent)}: install Slurm, on Debian with `apt-get install slurm-wlm munge`"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    with slurm.Cluster() as running:
        yield running
