"""Each gate lets a right answer pass and holds a wrong one, and says which it is."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from foilrec.content import gates
from foilrec.content.encoder import HashedWords, cosines
from foilrec.content.gates import Gates, said
from foilrec.content.goods import Item
from foilrec.errors import BadOption

ITEM = Item(0, "Red cotton hat Zora", "A plain hat of red cotton.", modalities=("text", "image"))
ANALYSIS = {
    "captions": {"image": "A red cotton hat."},
    "attributes": [
        {"name": "colour", "value": "red", "modality": "all", "importance": 0.75, "kind": "key"},
        {"name": "material", "value": "cotton", "modality": "all", "importance": 0.5, "kind": "key"},
        {"name": "pattern", "value": "plain", "modality": "text", "importance": 0.5, "kind": "key"},
        {"name": "brand", "value": "Zora", "modality": "text", "importance": 0, "kind": "irrelevant"},
    ],
}
PLAN = {
    "edits": [{"name": "colour", "old": "red", "new": "blue", "modality": "all"}],
}
ANSWER = {
    "text": {"title": "Blue cotton hat Zora", "description": "A plain hat of blue cotton."},
    "image": {"caption": "A blue cotton hat."},
    "echo": [{"name": "colour", "new": "blue"}],
}


def but(value: Any, path: str, new: Any) -> Any:
    """A copy with the entry at a path («a.0.b») replaced."""
    made = deepcopy(value)
    at, *rest = path.split(".")
    at = int(at) if at.isdigit() else at  # type: ignore[assignment]
    made[at] = but(made[at], ".".join(rest), new) if rest else new
    return made


def test_right_answers_pass() -> None:
    assert gates.analysed(ITEM, ANALYSIS) == []
    assert gates.planned(ITEM, ANALYSIS, PLAN) == []
    assert gates.generated(ITEM, ANALYSIS, PLAN, ANSWER) == []


def test_an_attribute_counts_once_and_shows_where_it_is_said() -> None:
    twice = [{**ANALYSIS["attributes"][0], "modality": "text"}, {**ANALYSIS["attributes"][1], "name": "Colour"}]
    assert gates.tidied(ITEM, {**ANALYSIS, "attributes": twice})["attributes"] == ANALYSIS["attributes"][:1]
    assert gates.tidied(ITEM, ANALYSIS) == ANALYSIS


@pytest.mark.parametrize(
    ("path", "new", "told"),
    [
        ("attributes.0.value", "scarlet", "not in the words of text, image"),
        ("attributes.2.modality", "all", "not in the words of image"),
        ("captions.image", "A hat.", "not in the words of image"),
    ],
)
def test_an_analysis_is_in_the_items_words(path: str, new: str, told: str) -> None:
    faults = gates.analysed(ITEM, but(ANALYSIS, path, new))
    assert faults and faults[0].gate == "attributes" and told in faults[0].told


@pytest.mark.parametrize(
    ("path", "new", "gate"),
    [
        ("edits", PLAN["edits"] * 2, "edits"),
        ("edits.0.new", "RED", "edits"),
        ("edits.0.new", "cotton", "edits"),
        ("edits", [{"name": "pattern", "old": "plain", "new": "striped", "modality": "text"}], "coverage"),
    ],
)
def test_a_plan_changes_something_everywhere(path: str, new: Any, gate: str) -> None:
    faults = gates.planned(ITEM, ANALYSIS, but(PLAN, path, new))
    assert [fault.gate for fault in faults] == [gate]


@pytest.mark.parametrize(
    ("path", "new", "gate"),
    [
        ("echo.0.new", "green", "echo"),
        ("echo", [], "echo"),
        ("image.caption", "A cotton hat.", "intervened"),
        ("image.caption", "A blue cotton hat, not a red one.", "intervened"),
        ("text.description", "A plain hat of Red cotton.", "intervened"),
        ("image.caption", "A blue hat.", "kept"),
        ("text", {"title": "Blue cotton hat", "description": "A plain hat of blue cotton."}, "kept"),
    ],
)
def test_the_edits_are_made_and_nothing_else(path: str, new: Any, gate: str) -> None:
    faults = gates.generated(ITEM, ANALYSIS, PLAN, but(ANSWER, path, new))
    assert [fault.gate for fault in faults] == [gate]


@pytest.mark.parametrize(
    ("value", "text", "there"),
    [
        ("men", "for women", False),
        ("hat", "two Hats", True),
        ("dress", "dresses", True),
        ("high chair", "a high-chair", True),
        ("high chair", "a chair, high", False),
        ("C++", "about C++", True),
        ("+", "none", False),
        ("straße", "STRASSE", True),
    ],
)
def test_values_are_found_as_words(value: str, text: str, there: bool) -> None:
    assert said(value, text) is there


class Angles:
    """Texts «37» are points on the circle at so many degrees."""

    name, revision, dim = "angles", "1", 2

    def __call__(self, texts: list[str]) -> np.ndarray[Any, Any]:
        angle = np.deg2rad([float(text) for text in texts])
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "image", "other", "gate"),
    [
        (40, 40, 90, None),
        (40, 48, 90, None),
        (5, 40, None, "contrast"),
        (80, 70, None, "contrast"),
        (40, 55, None, "balance"),
        (40, 40, 41, "near copy"),
    ],
)
def test_distances_are_held_within_their_limits(text: int, image: int, other: int | None, gate: str | None) -> None:
    before, after = {"text": "0", "image": "0"}, {"text": str(text), "image": str(image)}
    others = [] if other is None else list(Angles()([str(other), "170"]))
    found = gates.measured(before, after, Angles(), Gates(0.5, 0.97, 0.15, 0.97), others)
    assert found.cosines == {m: round(float(np.cos(np.deg2rad(a))), 4) for m, a in (("text", text), ("image", image))}
    assert [fault.gate for fault in found.faults][:1] == ([] if gate is None else [gate])
    expected = None if other is None else max(np.cos(np.deg2rad(text - other)), np.cos(np.deg2rad(text - 170)))
    assert found.nearest == (None if expected is None else pytest.approx(expected, abs=1e-4))


@pytest.mark.parametrize("limits", [(0.9, 0.5), (-2, 0.5), (0.1, 1.5), (0.1, 0.9, -0.1), (0.1, 0.9, 0.1, 2.0)])
def test_limits_that_make_no_sense_are_refused(limits: tuple[float, ...]) -> None:
    with pytest.raises(BadOption):
        Gates(*limits)


def test_limits_suit_the_encoder() -> None:
    assert (Gates.of("all-minilm-l6-v2").lo, Gates.of("all-minilm-l6-v2").hi) == (0.55, 0.97)
    assert Gates.of("hashed").lo < 0.55 and Gates.of("hashed", (0.1, 0.2)).hi == 0.2


def test_hashed_words_are_rows_of_length_one_that_depend_on_their_own_text() -> None:
    texts = ["red hat", "blue hat", "red scarf of wool", "hat"]
    encode = HashedWords(texts)
    rows = encode([*texts, ""])
    assert rows.dtype == np.float32 and rows.shape == (5, encode.dim)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 1, 0], atol=1e-6)
    np.testing.assert_array_equal(encode(["blue hat"])[0], rows[1])
    close = cosines(rows[:1], encode(["hat, red", "blue hat", "green tea"]))
    assert close[0] == pytest.approx(1) and close[0] > close[1] > abs(close[2])
    assert encode.revision == HashedWords(texts).revision != HashedWords(texts[:2]).revision
