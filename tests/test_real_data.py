"""Readers on the real data sets, where they are present: published counts, features and graphs."""

import os
import time
from pathlib import Path

import pytest
import torch

from foilrec.reading import read
from foilrec.reading.convert import convert

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def real() -> Path:
    """The folder of the real data sets: FOILREC_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("FOILREC_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "baby").is_dir():
        pytest.skip(f"no real data sets at {folder}: set FOILREC_DATA to their folder")
    return folder


@pytest.mark.parametrize(
    ("name", "users", "items", "parts"),
    [
        ("baby", 19_445, 7_050, (118_551, 21_682, 20_559)),
        ("clothing", 39_387, 23_033, (197_338, 41_189, 40_150)),
        ("lfm2k", 1_858, 1_425, (44_327, 4_799, 7_219)),
        ("tiktok", 9_308, 6_710, (59_541, 3_046, 6_125)),
        ("ml100k", 943, 1_682, (75_000, 12_000, 13_000)),
        ("tiny_ml100k", 580, 200, (10_286, 1_082, 1_289)),
        ("cf/gowalla.npz", 29_858, 40_981, (719_081, 91_047, 217_242)),
        ("cf/ml-1m-bign.npz", 6_040, 3_706, (724_973, 77_580, 197_656)),
        ("cf/lastfm.npz", 1_880, 4_489, (38_740, 3_395, 10_530)),
        ("seq/Beauty.txt.gz", 22_363, 12_101, (153_776, 22_363, 22_363)),
        ("seq/Toys_and_Games.txt.gz", 19_412, 11_924, (128_773, 19_412, 19_412)),
    ],
)
def test_counts_are_the_published_ones(real: Path, name: str, users: int, items: int, parts: tuple[int, ...]) -> None:
    data = read(real / name)
    assert (data.n_users, data.n_items) == (users, items)
    assert (len(data.train), len(data.valid), len(data.test)) == parts
    assert data.n_items > max(int(part[:, 1].max()) for part in (data.train, data.valid, data.test))


def test_baby_has_graphs_titles_and_surrogates_only_when_asked(real: Path) -> None:
    data = read(real / "baby")
    assert {name: tuple(graph.ids.shape) for name, graph in data.neighbours.items()} == {
        "image": (7050, 10),
        "text": (7050, 10),
    }
    own = data.neighbours["image"].ids == torch.arange(7050)[:, None]
    assert own.any(1).float().mean() > 0.99  # among more than ten equal pictures an item may miss itself
    assert data.titles is not None and sum(map(bool, data.titles)) == 3416
    assert data.item_ids is not None and data.item_ids[0] == "097293751X" and not data.features
    stand_ins = read(real / "baby", surrogate=True).features
    assert all(f.surrogate and f.rows.shape == (7050, 128) for f in stand_ins.values()) and len(stand_ins) == 2


def test_baby_is_redrawn_by_the_rule_of_mmrec(real: Path) -> None:
    data = read(real / "baby", split="random", split_seed=5)
    assert (len(data.train), len(data.valid), len(data.test)) == (118_551, 20_559, 21_682)


def test_baby_is_read_quickly(real: Path) -> None:
    read(real / "baby")
    start = time.process_time()
    read(real / "baby")
    assert time.process_time() - start < 1.0  # about 0.15 s; the machine may be busy


def test_lfm2k_takes_features_by_name(real: Path) -> None:
    files = {"text": "all-MiniLM-L6-v2.npy", "audio": "vggish.npy", "speech": "whisper.npy"}
    data = read(real / "lfm2k", features=files)
    assert {name: f.dim for name, f in data.features.items()} == {"text": 384, "audio": 128, "speech": 512}
    assert data.titles is not None and all(data.titles)


def test_pictures_wait_until_they_are_asked_for(real: Path) -> None:
    tiny, whole = read(real / "tiny_ml100k").pictures, read(real / "ml100k").pictures
    assert tiny is not None and len(tiny) == 200 and tiny[3].shape == (48, 32, 3)
    assert whole is not None and sum(picture is not None for picture in whole) == 466


@pytest.mark.parametrize("name", ["tiny_ml100k", "tiktok", "ml100k", "cf/lastfm.npz"])
def test_real_data_survive_conversion(real: Path, name: str, tmp_path: Path) -> None:
    data = read(real / name)
    assert read(convert(data, tmp_path / "copy")).fingerprint == data.fingerprint
