"""From captions to the features of a data set: a ridge map that carries what an edit changes in words over to them.

Route `caption`: positive and negative are both encoded from words. Route `delta`: v + W (E(negative) - E(positive)),
with W fitted on the catalogue, keeps in v what the edit does not touch and suits any backbone as it is.
"""

from typing import Any, NamedTuple

import numpy as np

from foilrec.errors import PartsDoNotFit
from foilrec.numerics import streams

Array = np.ndarray[Any, Any]
LEAST = 0.05  # of the variance of items that were not fitted
FEWEST = 30  # items to fit and test on
_PENALTIES = tuple(10.0**power for power in range(-4, 4))


class Fit(NamedTuple):
    """W [E, F] with the share of variance that it explains of items held out from fitting, and the penalty chosen."""

    weights: Array
    r2: float
    penalty: float


def fit(words: Array, features: Array, modality: str, seed: int = 0) -> Fit:
    """A ridge map from encoded words [n, E] to features [n, F] of the same items.

    Three fifths of the items are fitted, a fifth chooses the penalty, and the last says R^2. PartsDoNotFit if that is
    under 0.05 or there are fewer than 30 items: the words then say too little about the features.
    """
    if len(words) < FEWEST:
        raise PartsDoNotFit(
            f"Route delta: {len(words)} items with words and features of {modality} are too few for a map, and "
            f"{FEWEST} are needed: generate for more, or take --route caption."
        )
    order = np.argsort([streams.key(seed, "ridge", row) for row in range(len(words))])
    fitted, chosen, held = np.split(order, [len(order) * 3 // 5, len(order) * 4 // 5])
    x, y = words.astype(np.float64), features.astype(np.float64)
    centres = x[fitted].mean(0), y[fitted].mean(0)
    x, y = x - centres[0], y - centres[1]
    left, values, right = np.linalg.svd(x[fitted], full_matrices=False)
    turned = left.T @ y[fitted]

    def weights(penalty: float) -> Array:
        shrunk = values / (values**2 + penalty * max(float(values.max()) ** 2, 1e-12))
        made: Array = right.T @ (shrunk[:, None] * turned)
        return made

    best = max(_PENALTIES, key=lambda penalty: explained(x[chosen] @ weights(penalty), y[chosen]))
    r2 = explained(x[held] @ weights(best), y[held])
    if not r2 >= LEAST:
        raise PartsDoNotFit(
            f"Route delta: words explain {r2:.3f} of the variance of {modality} features in held-out items, less than "
            f"{LEAST}: take --route caption, or a better encoder."
        )
    return Fit(weights(best).astype(np.float32), round(r2, 4), best)


def explained(predicted: Array, true: Array) -> float:
    """R^2 over all columns together; both are centred on the fitted items. 0 where nothing varies."""
    total = float((true**2).sum())
    return 1 - float(((true - predicted) ** 2).sum()) / total if total > 0 else 0.0


def moved(features: Array, before: Array, after: Array, weights: Array) -> Array:
    """v + W (E(after) - E(before)): features [n, F], words [n, E] each, W [E, F] -> float32 [n, F]."""
    made: Array = (features + (after - before) @ weights).astype(np.float32)
    return made
