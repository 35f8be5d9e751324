"""Neighbours come ready-made, out of the cache or from a search, and no file is trusted unseen."""

import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foilrec import files, parts
from foilrec.cli.progress import shown
from foilrec.core import Data
from foilrec.data import Features, Neighbours
from foilrec.errors import BadOption, MissingExtra
from foilrec.graphs import nearest
from foilrec.graphs.sparse import nearest_pairs

K = 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in which even the smallest graph is worth keeping."""
    monkeypatch.setenv("FOILREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nearest, "WORTH_KEEPING", 0)
    return tmp_path / "cache" / "neighbours"


@pytest.fixture
def features() -> Features:
    """Thirty rows of which two are missing."""
    present = torch.ones(30, dtype=torch.bool)
    present[[3, 9]] = False
    return Features(np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32), present)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the exact searches."""
    counted: list[int] = []

    def count(*given: Any, **more: Any) -> tuple[Tensor, Tensor]:
        counted.append(1)
        return nearest_pairs(*given, **more)

    monkeypatch.setattr(nearest, "nearest_pairs", count)
    return counted


def slow(features: Features, k: int) -> tuple[list[list[int]], list[list[float]]]:
    """Every pair's cosine, sorted."""
    rows, ids, cosines = features.all().double(), [], []
    for i in range(len(rows)):
        if features.present is not None and not features.present[i]:
            ids.append([i] * k)
            cosines.append([0.0] * k)
            continue
        others = [j for j in range(len(rows)) if j != i and (features.present is None or features.present[j])]
        by = {j: float(torch.cosine_similarity(rows[i], rows[j], dim=0)) for j in others}
        near = sorted(by, key=lambda j, by=by: -by[j])[: k - 1]
        ids.append([i, *near])
        cosines.append([1.0, *(by[j] for j in near)])
    return ids, cosines


def test_neighbours_and_cosines_are_those_of_all_pairs(features: Features) -> None:
    ids, cosines = slow(features, K)
    for _ in range(2):  # searched for, and from the cache
        made = nearest.found(features, K)
        assert made.ids.tolist() == ids
        assert made.ids.dtype == torch.long
        assert torch.allclose(made.cosines.double(), torch.tensor(cosines).double(), atol=1e-6)
    whole, values = nearest_pairs(torch.tensor([[1.0, 0], [0, 0], [2, 0]]), 2)
    assert whole.tolist() == [[0, 2], [1, 1], [2, 0]]
    assert values.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_a_graph_is_searched_for_once(features: Features, searches: list[int], cache: Path) -> None:
    first, second = nearest.found(features, K), nearest.found(features, K)
    assert len(searches) == 1
    assert torch.equal(first.ids, second.ids)
    assert torch.equal(first.cosines, second.cosines)
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_anything_else_is_another_graph(features: Features, searches: list[int], cache: Path) -> None:
    moved = features.rows.copy()
    moved[0, 0] += 1
    other = torch.ones(30, dtype=torch.bool)
    variants = [
        (features, K),
        (features, K + 1),
        (replace(features, rows=moved), K),
        (replace(features, rows=features.rows.astype(np.float64)), K),
        (replace(features, present=None), K),
        (replace(features, present=other), K),
        (replace(features, rows=features.rows.reshape(30, 5)[::-1].copy()), K),
    ]
    for variant, k in variants:
        nearest.found(variant, k)
    assert len(searches) == len(variants) == len(list(cache.iterdir()))


def test_a_small_graph_is_not_worth_keeping(
    features: Features, searches: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "WORTH_KEEPING", 30 * 30 * 5 + 1)
    nearest.found(features, K)
    nearest.found(features, K)
    assert len(searches) == 2
    assert not cache.exists()


def damaged(path: Path, how: str) -> None:
    """Spoils a kept graph."""
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif how == "bits":
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(bytes(content))
    elif how == "words":
        path.write_text("nothing of the kind")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "foreign":
        files.save_tree(path, {"weights": torch.zeros(3)})
    elif how == "list":
        files.save_tree(path, ["a", "b"])  # type: ignore[arg-type]
    else:
        tree = files.load_tree(path)
        tree["key"]["k"] = 99
        files.save_tree(path, tree)


@pytest.mark.parametrize("how", ["cut", "bits", "words", "folder", "foreign", "list", "key"])
def test_a_file_that_is_not_what_its_name_says_is_told_and_found_again(
    how: str, features: Features, searches: list[int], cache: Path
) -> None:
    right = nearest.found(features, K)
    (path,) = cache.iterdir()
    damaged(path, how)
    said: list[str] = []
    with nearest.heard(said.append, lambda block, blocks: None):
        again = nearest.found(features, K)
    assert len(searches) == 2
    assert torch.equal(again.ids, right.ids)
    assert torch.equal(again.cosines, right.cosines)
    assert "damaged or of another kind" in said[0]
    assert "\n" not in said[0]
    if how != "folder":
        assert torch.equal(nearest.found(features, K).ids, right.ids)
        assert len(searches) == 2, "the file was written anew"


def test_a_note_that_nobody_hears_is_a_warning(features: Features, cache: Path) -> None:
    nearest.found(features, K)
    damaged(next(cache.iterdir()), "words")
    with pytest.warns(UserWarning, match="another kind"):
        nearest.found(features, K)


def test_a_cache_that_cannot_be_written_does_no_harm(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FOILREC_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not kept"):
        assert nearest.found(features, K).ids.tolist() == slow(features, K)[0]


def test_the_cache_is_where_one_says(features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOILREC_CACHE", "0")
    assert nearest.folder() is None
    nearest.found(features, K)
    assert not list(tmp_path.rglob("*.safetensors"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FOILREC_CACHE")
    assert nearest.folder() == tmp_path / ".cache" / "foilrec"


def test_a_long_search_tells_its_plan_and_its_blocks(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "LONG", 30)
    said: list[str] = []
    done: list[tuple[int, int]] = []
    with nearest.heard(said.append, lambda *step: done.append(step)):
        nearest.found(features, K, name="image")
        nearest.found(features, K, name="image")
    assert said == ["neighbours by image: 30 items, k=4: 0 MB; dense would be 0.0 GB"], "kept graphs need no words"
    assert done == [(1, 1)]
    nearest.found(features, K + 1)  # nobody listens


def test_the_command_line_shows_a_long_search(
    features: Features, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from foilrec.recipe import Recipe

    monkeypatch.setattr(nearest, "LONG", 30)
    recipe = Recipe.from_tree({"name": "one", "data": {"name": "shop"}})
    with shown(recipe, quiet=True):
        nearest.found(features, K)
    assert capsys.readouterr().err == ""
    with shown(recipe):
        nearest.found(features, K + 1, name="image")
    assert capsys.readouterr().err.splitlines() == [
        "neighbours by image: 30 items, k=5: 0 MB; dense would be 0.0 GB",
        "neighbours 100 %",
    ]


def ring(k: int) -> Tensor:
    """Sixty items, each with itself and k - 1 others."""
    return (torch.arange(60)[:, None] + torch.tensor([0, 7, 31, 12, 55, 3])[:k]) % 60


def test_ready_made_neighbours_come_first(world: Data) -> None:
    ids, cosines = ring(6).int(), torch.rand(60, 6)
    present = torch.arange(60) != 7
    image = replace(world.features["image"], present=present)
    data = replace(world, features={"image": image}, neighbours={"image": Neighbours(ids, cosines)})
    made = nearest.neighbours(data, "image", 4)
    assert torch.equal(made.ids[present], ids[present, :4].long())
    assert torch.equal(made.cosines[present], cosines[present, :4])
    assert made.ids[7].tolist() == [7] * 4
    assert made.cosines[7].tolist() == [0] * 4
    with pytest.raises(BadOption, match="neighbours = 7"):
        nearest.neighbours(data, "image", 7)


@pytest.mark.parametrize("name", ["freedom", "lattice"])
def test_backbones_share_the_cache(name: str, world: Data, searches: list[int]) -> None:
    for backbone in (name, "freedom"):
        parts.build("backbone", backbone, world, dim=6)

    assert len(searches) == len(world.features), "a learned graph is searched for later, and is not kept"


def test_without_faiss_an_approximate_search_says_how_to_get_it(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(nearest, "MOST_EXACT", 29)
    with pytest.raises(MissingExtra) as caught:
        nearest.found(features, K)
    assert "pip install 'foilrec[ann]'" in str(caught.value)
    assert 'search = "exact"' in str(caught.value)
    assert nearest.found(features, K, "exact").ids.tolist() == slow(features, K)[0]


class Flat:
    """Stands in for faiss: exact inner products, with a row's own place not always first and some places empty."""

    METRIC_INNER_PRODUCT = 0

    def __init__(self, *given: Any) -> None:
        self.rows = np.empty((0, 0))

    def train(self, rows: np.ndarray) -> None:
        """Nothing to learn."""

    def add(self, rows: np.ndarray) -> None:
        """Keeps the rows."""
        self.rows = rows

    def search(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best, the first two changed about, and in row 0 only one found."""
        scores = rows @ self.rows.T
        ids = np.argsort(-scores, 1)[:, :k]
        ids[:, [0, 1]] = ids[:, [1, 0]]
        values = np.take_along_axis(scores, ids, 1)
        ids[0, 1:] = -1
        return values.astype(np.float32), ids


@pytest.mark.parametrize("missing", [True, False])
def test_approximate_neighbours_have_the_same_form(
    missing: bool, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = types.ModuleType("faiss")
    stand_in.IndexFlatIP = stand_in.IndexIVFFlat = Flat  # type: ignore[attr-defined]
    stand_in.METRIC_INNER_PRODUCT = 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faiss", stand_in)
    chosen = features if missing else replace(features, present=None)
    made, (ids, cosines) = nearest.found(chosen, K, "approximate"), slow(chosen, K)
    assert made.ids[1:].tolist() == ids[1:]
    assert torch.allclose(made.cosines[1:].double(), torch.tensor(cosines[1:]).double(), atol=1e-6)
    assert made.ids[0].tolist() == [0, ids[0][1], 0, 0]
    assert made.cosines[0, 2:].tolist() == [0, 0]
