"""Items as they are told to a model: clean texts, a picture, and words for every other modality."""

import html
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from foilrec.content.pictures import Picture
from foilrec.data import Data
from foilrec.errors import BadData, BadOption, some
from foilrec.numerics import streams

TITLE, DESCRIPTION, WORDS = 200, 600, 300  # characters of each that a model is told
HISTORY = 12  # items whose titles stand for a user's taste
RESERVED = ("all", "description", "echo", "text", "title")  # words with a meaning of their own in answers
_JOINERS = "\u200c\u200d"


def clean(text: str, most: int) -> str:
    """One line of at most so many characters, without entities, control, private or invisible characters.

    >>> clean("Baby&reg;  Tracker\\x00 \\u202eedoc", 13)
    'Baby® Tracker'
    """
    kept = []
    for letter in html.unescape(text[: 4 * most]):
        kind = unicodedata.category(letter)
        if kind[0] == "Z" or kind in ("Cc", "Cs", "Co", "Cn"):
            kept.append(" ")
        elif kind != "Cf" or letter in _JOINERS:
            kept.append(letter)
    return " ".join("".join(kept).split())[:most].rstrip()


@dataclass(frozen=True)
class Item:
    """What can be told of an item: its texts, words for other modalities, a picture; modalities, text the first."""

    number: int
    title: str
    description: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    picture: Picture | None = None
    modalities: tuple[str, ...] = ("text",)

    @property
    def text(self) -> str:
        """Title and description as one."""
        return ". ".join(part for part in (self.title.rstrip("."), self.description) if part)


class Goods:
    """The items of a data set as a model is told of them.

    modalities: which ones a negative is written for, "text" among them; None: text, pictures ("image") if the data
    has some, and what words describe. words: {modality: {raw item id: words}}.
    """

    def __init__(
        self, data: Data, modalities: Sequence[str] | None = None, words: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.data, self.words = data, dict(words or {})
        self.text = lru_cache(65_536)(self._joined)
        """Title and description of an item as one: number -> text."""
        if data.titles is None and data.descriptions is None:
            raise BadData(
                f"{data.name} has no titles and no descriptions, so that there is nothing to write negatives of: "
                "put them beside the interactions (item_text.jsonl)."
            )
        found = ["text", *(["image"] if data.pictures is not None else []), *self.words]
        self.modalities = tuple(dict.fromkeys(found if modalities is None else modalities))
        wrong = [name for name in self.modalities[1:] if name in RESERVED or not name.isidentifier()]
        if not self.modalities or self.modalities[0] != "text" or wrong:
            raise BadOption(
                f"Modalities {list(self.modalities)} must begin with text and go on with plain names such as image"
                + (f", not {some(wrong)}." if wrong else ".")
            )

    def __len__(self) -> int:
        return self.data.n_items

    @cached_property
    def told(self) -> Tensor:
        """Which items have a title or a description: bool [I]."""
        return torch.tensor([bool(self.text(number)) for number in range(len(self))], dtype=torch.bool)

    @cached_property
    def digest(self) -> str:
        """A digest of all that is told of the items, pictures aside."""
        made = blake2b(
            repr(sorted((name, sorted(of.items())) for name, of in self.words.items())).encode(), digest_size=16
        )
        for number in range(len(self)):
            made.update(f"\x1f{self.text(number)}".encode())
        return made.hexdigest()

    def __getitem__(self, number: int) -> Item:
        raw = str(self.data.raw_items([number])[0])
        words = {name: clean(of.get(raw, ""), WORDS) for name, of in self.words.items() if name in self.modalities}
        picture = None if self.data.pictures is None else self.data.pictures[number]
        return Item(
            number,
            self._text(self.data.titles, number, TITLE),
            self._text(self.data.descriptions, number, DESCRIPTION),
            {name: told for name, told in words.items() if told},
            Picture(picture) if picture is not None and "image" in self.modalities else None,
            self.modalities,
        )

    def _joined(self, number: int) -> str:
        titles, descriptions = self.data.titles, self.data.descriptions
        return Item(number, self._text(titles, number, TITLE), self._text(descriptions, number, DESCRIPTION)).text

    def _text(self, texts: Sequence[str] | None, number: int, most: int) -> str:
        return "" if texts is None else clean(texts[number] or "", most)

    def taste(self, user: int, without: int, seed: int) -> list[str]:
        """Titles of up to 12 other items that a user took in training, drawn by name."""
        taken = [item for item in self.data.seen.of(user).tolist() if item != without]
        taken.sort(key=lambda item: streams.key(seed, "taste", user, item))
        return [told for item in taken[:HISTORY] if (told := self.text(item)[:TITLE])]

    def company(self, item: int, user: int | None) -> list[int]:
        """What a negative must not be a copy of: the user's other items, or those of everyone who took the item."""
        train = self.data.train
        users = train[train[:, 1] == item, 0].unique().tolist() if user is None else [user]
        return sorted({other for one in users for other in self.data.seen.of(one).tolist()} - {item})


def read_words(path: Path) -> dict[str, str]:
    """Words for one modality, {raw item id: words}, from a table or JSON lines with an item's id and a text."""
    from foilrec.reading.texts import read_texts

    if not path.is_file():
        raise BadOption(f"There is no file {path} of words.")
    return {item: ". ".join(part for part in texts if part) for item, texts in read_texts(path).items()}
