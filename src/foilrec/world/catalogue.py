"""The goods of the shop: their attributes, and whatever can be written, drawn or measured of them."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from foilrec.numerics import streams
from foilrec.world import draws, features, pictures, words
from foilrec.world.draws import Array

Values = Mapping[str, Array]
"""Values of every attribute, as places in its vocabulary: {attribute: [n]}."""

What = int | Array | Values
"""Items of the catalogue by number, or attribute values that perhaps no item has."""


class Catalogue:
    """n_items goods with their attributes {name: int64 [I]}; the rest is made on demand and the same each time.

    Wherever goods are asked for, give their numbers (one, or an array [n]), or the values of every attribute
    {name: [n]}. A good made of values takes what is not an attribute (its name, the turn of phrase, the light in the
    picture) from the item whose number stands in `variant` [n]: an item drawn again with one value changed differs in
    what that value paints and nothing else.

    noise: what is added to each feature, as a share of its own spread (0 for none, 0.3 mild, 1 strong).
    """

    vocabularies = words.VOCABULARIES

    def __init__(self, n_items: int, seed: int, noise: float = 0.3) -> None:
        self.n_items, self.noise = n_items, noise
        self._key = streams.key(seed, "shop", "items")
        self.attributes = {name: self._attribute(name) for name in self.vocabularies}

    def _attribute(self, name: str) -> Array:
        return draws.chosen(self.shares(name), streams.key(self._key, name), np.arange(self.n_items))

    def shares(self, name: str) -> Array:
        """How frequent each value of an attribute is among goods, in the order of its vocabulary: [V], sum 1."""
        falling = 1 / (np.arange(len(self.vocabularies[name])) + 4)
        shares: Array = falling / falling.sum()
        return shares

    def of(self, items: Array) -> dict[str, Array]:
        """The attributes of some items: [n] -> {name: [n]}."""
        return {name: values[items] for name, values in self.attributes.items()}

    def _goods(self, what: What, variant: Array | None) -> tuple[Values, Array]:
        if isinstance(what, Mapping):
            values = {name: np.atleast_1d(what[name]).astype(np.int64) for name in self.vocabularies}
            count = len(values["category"])
            return values, np.zeros(count, np.int64) if variant is None else np.atleast_1d(variant)
        items = np.atleast_1d(what)
        return self.of(items), items if variant is None else np.atleast_1d(variant)

    def title(self, what: What, variant: Array | None = None) -> list[str]:
        """What n goods are called: «Navy striped cotton shirt Corvera»."""
        return words.titles(*self._goods(what, variant), self._key)

    def describe(self, what: What, variant: Array | None = None) -> list[str]:
        """n goods in two sentences each, which name every attribute."""
        return words.descriptions(*self._goods(what, variant), self._key)

    def draw(self, what: What, variant: Array | None = None) -> Array:
        """Pictures of n goods: uint8 [n, 32, 32, 3]."""
        return pictures.draw(*self._goods(what, variant), self._key)

    def features(self, modality: str, what: What, variant: Array | None = None) -> Array:
        """Features of n goods, computed from their picture ("image") or their texts ("text"): float32 [n, 64]."""
        values, variants = self._goods(what, variant)
        raw = self._raw(modality, values, variants)
        centre, spread = self._scales[modality]
        place = streams.key(self._key, "noise", modality)
        blur = draws.normal(place, variants[:, None], np.arange(features.WIDTH)) * np.float32(self.noise)
        rows: Array = (raw - centre) / spread + blur
        return rows

    def _raw(self, modality: str, values: Values, variants: Array) -> Array:
        if modality == "image":
            return features.seen(pictures.draw(values, variants, self._key))
        pairs = zip(self.title(values, variants), self.describe(values, variants), strict=True)
        return features.read([f"{title}. {text}" for title, text in pairs])

    @cached_property
    def _scales(self) -> dict[str, tuple[Array, np.float32]]:
        """The middle [64] and the spread of each modality, over a sample of goods; whole numbers sum exactly."""
        items = np.arange(min(self.n_items, 512))
        scales = {}
        for modality in ("image", "text"):
            raw = self._raw(modality, self.of(items), items).astype(np.int64)
            centre = raw.sum(0) // len(items)
            power = int(((raw - centre) ** 2).sum())
            scales[modality] = centre.astype(np.float32), np.float32((power / raw.size) ** 0.5)
        return scales
