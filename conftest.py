"""For every test of the project: what is kept for later runs goes to a place of the test run's own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before, home = os.environ.get("VADER_CACHE_HOME"), tmp_path_factory.mktemp("cache")
    os.environ["VADER_CACHE_HOME"] = str(home)
    yield home
    if before is None:
        del os.environ["VADER_CACHE_HOME"]
    else:
        os.environ["VADER_CACHE_HOME"] = before
