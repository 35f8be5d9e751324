"""What would not fit is refused before it is asked for: by name, with what it takes, what is free, and the cure."""

import re

import pytest

from commands import Command
from foilrec import parts
from foilrec.core import Data
from foilrec.errors import OutOfMemory
from foilrec.numerics import memory
from foilrec.numerics.rows import RowScores
from foilrec.trainer import Objective

needs_meminfo = pytest.mark.skipif(memory.free_bytes() is None, reason="this system does not say what is free")


@needs_meminfo
def test_a_table_larger_than_what_is_free(world: Data) -> None:
    with pytest.raises(OutOfMemory, match=re.escape("of 1,000,000,000 numbers would take")) as caught:
        parts.build("backbone", "bprmf", world, dim=10**9)
    assert "are free: lower dim." in str(caught.value)


@needs_meminfo
@pytest.mark.parametrize(
    ("count", "loss", "what"),
    [
        (10**10, "bpr", "Uniform: 10,000,000,000 candidates"),
        (5_000, "bsl", "vectors of"),
        (5_000, "bpr", "vectors of"),
        (5_000, "bpr", ""),
    ],
)
def test_negatives_more_than_what_is_free(
    count: int, loss: str, what: str, world: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LARGE", 2**10)
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**20)
    model, sampler = parts.build("backbone", "bprmf", world), parts.build("sampler", "uniform", world, count=count)
    objective, batch = Objective(model, sampler, parts.build("loss", loss)), next(iter(world.batches(20, 0)))
    if not what:  # the compiled loops read items where they lie
        assert objective(batch).isfinite()
        return
    if loss == "bpr":
        monkeypatch.setattr(RowScores, "serves", lambda *_: False)
    with pytest.raises(OutOfMemory, match=what):
        objective(batch)


@pytest.mark.parametrize("free", [None, 2**40])
def test_what_fits_or_cannot_be_known_passes(free: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    memory.must_fit("anything", 2**39, "lower it")


def test_nobody_looks_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    memory.must_fit("a small thing", memory.LARGE - 1, "lower it")
    with pytest.raises(OutOfMemory, match=r"a large thing would take 1.0 GB, and 0.0 GB are free: lower it\."):
        memory.must_fit("a large thing", memory.LARGE, "lower it")


def test_memory_that_runs_out_all_the_same_is_told_in_words(foilrec: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr("foilrec.demonstration.demonstrate", fail)
    said = foilrec("demo")
    assert said.code == 2
    assert "memory ran out" in said.err
    assert "lower the batch" in said.err
