"""What every test gets: one thread, a small shop, and the plain torch form of the kernels on request."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from commands import Command, Said
from foilrec import cli, parts
from foilrec.core import Data
from foilrec.numerics import kernels
from foilrec.world.counterfactuals import write_counterfactuals

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world() -> Data:
    """A tiny shop: 60 users, 60 items, two modalities."""
    data: Data = parts.build("dataset", "shop", users=60, items=60).read()
    return data


@pytest.fixture(scope="session")
def ideal(world: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the small shop's ideal negatives: each item with 1, 2 and 3 attributes changed."""
    folder = tmp_path_factory.mktemp("ideal")
    write_counterfactuals(world, folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Item graphs are kept in a folder of the tests' own, never in the home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOILREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels in torch, as where numba is missing."""
    monkeypatch.setenv("FOILREC_NUMBA", "0")
    kernels.compiled.cache_clear()
    yield
    monkeypatch.undo()
    kernels.compiled.cache_clear()


@pytest.fixture(params=["numba", "torch"])
def both_forms(request: pytest.FixtureRequest) -> None:
    """Runs a test twice: with the compiled kernels, and with their equals in torch."""
    if request.param == "torch":
        request.getfixturevalue("no_numba")
    elif kernels.compiled() is None:
        pytest.skip("numba is not installed")


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """The p value of Pearson's test that counts [n] follow the expected ones [n]."""
    counts, expected = counts.double(), expected.double()
    assert not counts[expected == 0].any(), "drawn, though of probability 0"
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic = ((counts - expected).square() / expected).sum()
    half = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return 1.0 if len(counts) == 1 else float(torch.special.gammaincc(half, statistic / 2))


@pytest.fixture(name="chi_square")
def _chi_square() -> Callable[[Tensor, Tensor], float]:
    return chi_square


@pytest.fixture
def foilrec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line's entry point, in this process."""

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["foilrec", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        code = left.value.code
        return Said(code if isinstance(code, int) else 0, *capsys.readouterr())

    return call
