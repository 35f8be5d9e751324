"""Formulas of offline content written slowly: the ridge map of route delta, and words counted, weighed and hashed."""

from hashlib import blake2b
from math import log, log2, sqrt
from statistics import median

import numpy as np
import pytest

from foilrec.content.encoder import Array, HashedWords
from foilrec.content.routes import Fit, explained, fit, moved
from foilrec.errors import PartsDoNotFit
from foilrec.numerics import streams

N, E, F = 60, 7, 4


def world(noise: float = 0.3, seed: int = 0) -> tuple[Array, Array, Array]:
    """Words [N, E], features [N, F] that follow from them but for noise, and the map [E, F]."""
    generator = np.random.default_rng(seed)
    words, weights = generator.standard_normal((N, E)), generator.standard_normal((E, F))
    return words, words @ weights + 5 + noise * generator.standard_normal((N, F)), weights


def slow_fit(words: Array, features: Array) -> Fit:
    """Normal equations for each penalty, split by name."""
    order = sorted(range(N), key=lambda row: streams.key(0, "ridge", row))
    parts = order[: N * 3 // 5], order[N * 3 // 5 : N * 4 // 5], order[N * 4 // 5 :]
    fitted, chosen, held = parts
    x = words - sum(words[n] for n in fitted) / len(fitted)
    y = features - sum(features[n] for n in fitted) / len(fitted)
    gram = sum(np.outer(x[n], x[n]) for n in fitted)
    cross = sum(np.outer(x[n], y[n]) for n in fitted)
    largest = np.linalg.eigvalsh(gram).max()

    def share(weights: Array, rows: list[int]) -> float:
        left = sum(((y[n] - x[n] @ weights) ** 2).sum() for n in rows)
        return float(1 - left / sum((y[n] ** 2).sum() for n in rows))

    best = max(
        (np.linalg.solve(gram + 10.0**power * largest * np.eye(E), cross) for power in range(-4, 4)),
        key=lambda weights: share(weights, chosen),
    )
    return Fit(best, share(best, held), 0.0)


@pytest.mark.parametrize("noise", [0.0, 0.3, 2.0])
def test_the_map_is_that_of_the_normal_equations(noise: float) -> None:
    words, features, _ = world(noise)
    found, slow = fit(words, features, "image"), slow_fit(words, features)
    np.testing.assert_allclose(found.weights, slow.weights, rtol=1e-4, atol=1e-5)
    assert found.r2 == pytest.approx(slow.r2, abs=1e-4)


def test_without_noise_an_edit_in_words_moves_features_as_in_truth() -> None:
    words, features, weights = world(0.0)
    found = fit(words, features, "image")
    after = words + np.random.default_rng(1).standard_normal((N, E))
    assert found.r2 > 0.999
    np.testing.assert_allclose(moved(features, words, after, found.weights), after @ weights + 5, atol=0.02)
    np.testing.assert_array_equal(moved(features, words, words, found.weights), features.astype(np.float32))


def test_words_that_say_nothing_make_no_map() -> None:
    words, features, _ = world()
    nothing = np.random.default_rng(2).standard_normal(features.shape)
    for x, y in ((words, nothing), (words * 0, features), (words, features * 0)):
        with pytest.raises(PartsDoNotFit, match=r"less than 0\.05"):
            fit(x, y, "image")
    with pytest.raises(PartsDoNotFit, match="too few"):
        fit(words[:20], features[:20], "image")
    assert explained(features, features) == 1 and explained(features * 0, features) == 0


def slow_row(text: str, catalogue: list[str], dim: int) -> Array:
    """Weights word for word: (1 + log2 times) log(1 + N / n), the middle one for words of fewer than two texts."""
    met: dict[str, int] = {}
    for other in catalogue:
        for word in set(other.split()):
            met[word] = met.get(word, 0) + 1
    known = {word: log(1 + len(catalogue) / n) for word, n in met.items() if n > 1}
    row = [0.0] * dim
    for word in set(text.split()):
        weight = known.get(word, median(known.values())) * (1 + log2(text.split().count(word)))
        code = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
        row[code % dim] += weight if code >= 2**63 else -weight
    length = sqrt(sum(value * value for value in row))
    return np.array([value / length for value in row])


def test_hashed_words_are_counted_and_weighed_so() -> None:
    catalogue = ["red hat red", "blue hat", "red wool scarf", "wool hat of wool", "one"]
    encode = HashedWords(catalogue, dim=32)
    texts = [*catalogue, "unheard hat hat hat"]
    for row, text in zip(encode(texts), texts, strict=True):
        np.testing.assert_allclose(row, slow_row(text, catalogue, 32), atol=1e-6)
