"""What every test gets: one thread, a small shop, and the plain torch form of the kernels on request."""

from collections.abc import Iterator

import pytest
import torch

from foilrec import kernels, parts
from foilrec.core import Data

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world() -> Data:
    """A tiny shop: 60 users, 60 items, two modalities."""
    data: Data = parts.build("dataset", "shop", users=60, items=60).read()
    return data


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels in torch, as where numba is missing."""
    monkeypatch.setenv("FOILREC_NUMBA", "0")
    kernels.compiled.cache_clear()
    yield
    monkeypatch.undo()
    kernels.compiled.cache_clear()
