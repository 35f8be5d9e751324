"""A recipe is checked when it is read, says what it means as TOML, and is known by its content."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foilrec import toml
from foilrec.core import Data
from foilrec.errors import BadOption, FoilrecError, NoSuchPart
from foilrec.recipe import Part, Recipe, expand

FULL = {
    "name": "night",
    "seed": 3,
    "threads": 1,
    "data": {"name": "shop", "users": 60, "items": 60},
    "backbone": {"name": "freedom", "dim": 8, "prune": 0.5, "shares": {"image": 0.25, "text": 0.75}},
    "sampler": {"name": "dns", "pool": 8, "top": 2},
    "loss": {"name": "softmax", "temperature": 0.5},
    "optimizer": {"name": "adam", "lr": 1e-5},
    "train": {"batch": 64, "epochs": 2, "select": "ndcg@5"},
    "evaluate": {"ks": [5, 10], "metrics": ["recall", "ndcg"], "masked": ["train", "valid"]},
}


def written(folder: Path, text: str, name: str = "a.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(match: str, *changes: str, kind: type[FoilrecError] = BadOption) -> None:
    with pytest.raises(kind, match=match):
        Recipe.from_tree(FULL, changes)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    recipe = Recipe.from_tree(FULL)
    again = Recipe.load(written(tmp_path, recipe.to_toml()))
    assert again == recipe and again.tree() == recipe.tree() and again.digest == recipe.digest
    assert Recipe.load(written(tmp_path, Recipe().to_toml())) == Recipe()


def test_nothing_at_all_is_a_recipe_named_after_its_file(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, "", "mine.toml"))
    assert recipe.name == "mine" and recipe.digest == Recipe().digest


def test_changes_set_dotted_keys() -> None:
    recipe = Recipe.from_tree(
        FULL, ["sampler.pool=32", "seed = 7", "train.select=recall@10", "backbone.shares.image=1"]
    )
    assert recipe.sampler == Part("dns", {"pool": 32, "top": 2})
    assert recipe.seed == 7 and recipe.train.select == "recall@10" and recipe.train.batch == 64
    assert recipe.backbone.options["shares"] == {"image": 1, "text": 0.75}
    assert Recipe.from_tree(FULL, ["evaluate.ks=[5, 7]"]).evaluate.ks == (5, 7)


def test_changes_leave_the_original_alone() -> None:
    recipe = Recipe.from_tree(FULL)
    changed = recipe.with_changes("backbone.shares.image=1", "sampler.pool=9")
    assert changed.backbone.options["shares"]["image"] == 1
    assert recipe == Recipe.from_tree(FULL) and FULL["backbone"]["shares"]["image"] == 0.25  # type: ignore[index]


def test_another_name_drops_the_options_of_the_old_part() -> None:
    assert Recipe.from_tree(FULL, ["sampler.name=uniform"]).sampler == Part("uniform")
    assert Recipe.from_tree(FULL, ["sampler.name=dns"]).sampler.options == {"pool": 8, "top": 2}
    assert Recipe.from_tree(FULL, ["sampler=dns"]).sampler == Part("dns")
    assert Recipe.from_tree({"backbone": {"dim": 8}}, ["backbone.name=lightgcn"]).backbone.options == {"dim": 8}


def test_the_order_of_changes_does_not_matter() -> None:
    one = Recipe.from_tree(FULL, ["sampler.name=popularity", "sampler.power=0.5"])
    other = Recipe.from_tree(FULL, ["sampler.power=0.5", "sampler.name=popularity"])
    assert one == other and one.sampler == Part("popularity", {"power": 0.5})


def test_a_whole_number_stands_for_a_float() -> None:
    assert Recipe.from_tree(FULL, ["optimizer.lr=1"]).optimizer.options == {"lr": 1}


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ("sede=1", "'sede': did you mean 'seed'"),
        ("smapler.pool=1", "did you mean 'sampler'"),
        ("sampler.pol=8", "did you mean 'pool'"),
        ("train.epoch=8", "did you mean 'epochs'"),
        ("epochs=8", "did you mean 'train.epochs'"),
        ("ks=[5]", "did you mean 'evaluate.ks'"),
        ("evaluate.metric=8", "did you mean 'metrics'"),
        ("train.select=recal@10", "did you mean 'recall'"),
        ("train.select=recall@20", "is not measured: did you mean 'recall@"),
        ('evaluate.metrics=["recal"]', "did you mean 'recall'"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(change: str, answer: str) -> None:
    refused(answer, change)


def test_a_slip_in_a_parts_name_is_answered_with_what_was_meant() -> None:
    refused("did you mean 'dns'", "sampler.name=dsn", kind=NoSuchPart)
    refused("did you mean 'lightgcn'", "backbone.name=lightgnc", kind=NoSuchPart)
    refused("no sampler 'qqqqq'[.] There are", "sampler.name=qqqqq", kind=NoSuchPart)


def test_a_slip_in_a_files_name_is_answered_with_what_was_meant(tmp_path: Path) -> None:
    written(tmp_path, "", "freedom-baby.toml")
    with pytest.raises(BadOption, match=r"did you mean 'freedom-baby\.toml'"):
        Recipe.load(tmp_path / "fredom-baby.toml")
    with pytest.raises(BadOption, match="no recipe"):
        Recipe.load(tmp_path / "nowhere" / "a.toml")


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ("seed=x", "seed must be int, not 'x'"),
        ("seed=true", "seed must be int"),
        ("seed=1.5", "seed must be int"),
        ("name=3", "name must be str"),
        ("name=''", "name = ''"),
        ("name=a/b", "without slashes"),
        ("name=..", "name = '..'"),
        ("threads=-1", "threads = -1"),
        ("data.name=[1]", "data.name must be a text"),
        ("sampler.pool=many", "pool: int = 16 cannot be 'many'"),
        ("sampler.pool=true", "cannot be True"),
        ("sampler.pool=1.5", "cannot be 1.5"),
        ("backbone.shares=1", "cannot be 1"),
        ("train=3", "train must be a table"),
        ("train.batch=0", "train.batch = 0 must be at least 1"),
        ("train.epochs=a", "train.epochs must be int, not 'a'"),
        ("train.patience=-1", "must be at least 0"),
        ("train.select=recall", "recall@20"),
        ("evaluate.ks=[]", "whole numbers above 0"),
        ("evaluate.ks=[0]", "whole numbers above 0"),
        ("evaluate.ks=[1.5]", "evaluate.ks must be"),
        ('evaluate.masked=["test"]', "masked"),
        ("seed", "is no change: write key=value"),
        ("=3", "is no change"),
        ("seed.x=3", "'seed' is a value"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(change: str, answer: str) -> None:
    refused(answer, change)


def test_a_value_where_a_table_belongs_is_refused() -> None:
    for tree in ({"sampler": "dns"}, {"train": []}):
        with pytest.raises(BadOption, match="must be a table"):
            Recipe.from_tree(tree)


def test_what_is_no_toml_is_refused_by_name(tmp_path: Path) -> None:
    broken = written(tmp_path, "seed = = 1")
    with pytest.raises(BadOption, match=r"a\.toml is no TOML file.*line 1"):
        Recipe.load(broken)
    broken.write_bytes(b"name = '\xff'")
    with pytest.raises(BadOption, match="is no TOML file"):
        Recipe.load(broken)
    with pytest.raises(BadOption, match="cannot be read"):
        Recipe.load(tmp_path)


def test_variables_in_a_path_are_filled_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHELF", "/on/the/shelf$")
    monkeypatch.setenv("SHELF_2", "other")
    assert expand("$SHELF/baby") == expand("${SHELF}/baby") == "/on/the/shelf$/baby"
    assert expand("$SHELF") == "/on/the/shelf$" and expand("a/$SHELF_2") == "a/other"
    assert expand("costs 3 $") == "costs 3 $" and expand(3) == 3
    monkeypatch.setenv("SHELF", "")
    with pytest.raises(BadOption, match="SHELF, which is not set"):
        expand("$SHELF/baby")
    monkeypatch.delenv("SHELF")
    with pytest.raises(BadOption, match=r"'\$SHELF/baby' names the environment variable SHELF, which is not set"):
        Recipe.from_tree({"data": {"name": "mmrec", "path": "$SHELF/baby"}}).read()


def test_where_the_data_variable_is_unset_the_folder_beside_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = tmp_path / "work"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("FOILREC_DATA", raising=False)
    with pytest.raises(BadOption, match="FOILREC_DATA"):
        expand("$FOILREC_DATA/baby")
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert expand("$FOILREC_DATA/baby") == str(Path("..", "shared", "data", "baby"))


def test_the_digest_follows_the_content_and_not_the_name() -> None:
    recipe = Recipe.from_tree(FULL)
    assert recipe.with_changes("name=day").digest == recipe.digest
    changes = ["seed=4", "sampler.pool=9", "loss=bpr", "train.batch=65", "evaluate.ks=[5]", "backbone.shares.text=1"]
    digests = {recipe.with_changes(change).digest for change in changes}
    assert len(digests) == len(changes) and recipe.digest not in digests
    turned = {**FULL, "sampler": {"top": 2, "pool": 8, "name": "dns"}}
    assert Recipe.from_tree(turned).digest == recipe.digest


def test_parts_are_built_from_the_seed_alone(world: Data) -> None:
    recipe = Recipe.from_tree(FULL)
    weights = [r.build(world)[0].state_dict() for r in (recipe, recipe, recipe.with_changes("seed=4"))]
    first, second, other = (next(iter(state.values())) for state in weights)
    assert first.equal(second) and not first.equal(other)


def test_validation_hides_training_and_test_what_the_recipe_says() -> None:
    recipe = Recipe.from_tree(FULL)
    assert recipe.protocol("valid").masked == ("train",) and recipe.protocol("test").masked == ("train", "valid")


PLAIN = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
TREES = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=4),
    st.recursive(
        PLAIN,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=3),
        ),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(max_examples=120, deadline=None)
@given(TREES)
def test_every_tree_is_read_back_as_it_was_written(tree: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(tree)) == tree


def test_the_odd_corners_of_toml_are_written_right() -> None:
    tree = {
        'a "b" \\ c.d': "quotes \" ' and \\ and\nlines\t\x7f\x00",
        "😀": "日本 😀",
        "": {"": {}},
        "deep": {"er": {"est": [1, [2.5, "x"], {"k": True}]}, "flat": -0.0},
        "big": 1e300,
        "far": float("inf"),
    }
    assert tomllib.loads(toml.dumps(tree)) == tree
    assert toml.dumps({"none": None}) == "\n"
    assert tomllib.loads(toml.dumps({"lr": np.float64(0.1), "ks": (1, 2)})) == {"lr": 0.1, "ks": [1, 2]}
    with pytest.raises(BadOption, match="TOML has no word"):
        toml.dumps({"path": Path("x")})
