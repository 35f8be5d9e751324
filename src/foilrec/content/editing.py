"""Pictures with an edit made: drawn anew where the data can draw, or by a function of one's own."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foilrec.content.encoder import Array
from foilrec.content.encoders import Encodes, load
from foilrec.content.pixels import pixels
from foilrec.data import Data
from foilrec.errors import BadData, BadOption, NoSuchPart, PartsDoNotFit

DRAWN = "drawn"
Edit = Mapping[str, str]
Editor = Callable[[int, Array, Sequence[Edit]], Array | None]
"""(item number, its picture uint8 [H, W, 3], edits with name, old and new) -> the picture edited, None if it cannot."""


@dataclass(frozen=True)
class Sight:
    """How edits are shown in pictures, and how pictures are encoded."""

    editor: str
    edit: Editor
    encoder: Encodes

    @classmethod
    def of(cls, data: Data, editor: str, encoder: str) -> "Sight":
        """By names: an editor (drawn, or module:function) and an encoder of pictures."""
        if data.pictures is None:
            raise PartsDoNotFit(f"Route image: {data.name} has no pictures to edit: take --route caption.")
        return cls(editor, editor_of(data, editor), load("image", encoder))

    def rows(self, pictures: Sequence[Any], items: Sequence[int], edits: Sequence[Sequence[Edit]]) -> list[Array]:
        """Rows [N, F] of the pictures of items [N], and of the same with their edits made; zeros where none can be."""
        before, after = (np.zeros((len(items), self.encoder.dim), np.float32) for _ in range(2))
        for row, (item, its) in enumerate(zip(items, edits, strict=True)):
            source = pictures[item]
            seen = None if source is None else pixels(source)
            made = None if seen is None else self.edit(item, seen, its)
            if seen is not None and made is not None:
                before[row], after[row] = self.encoder([seen, pixels(_picture(made, self.editor))])
        return [before, after]


def editor_of(data: Data, name: str) -> Editor:
    """`drawn` for data whose goods can be drawn (the shop), or a function of one's own, module:function."""
    if name == DRAWN:
        return _drawn(data)
    module, colon, function = name.partition(":")
    if not colon:
        raise NoSuchPart(f"There is no editor {name!r}: take {DRAWN}, or name one of your own, module:function.")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise NoSuchPart(f"--editor {name!r}: {error}.") from error
    if not callable(found):
        raise BadOption(f"--editor {name!r} is no function of (item, picture, edits).")
    editor: Editor = found
    return editor


def _drawn(data: Data) -> Editor:
    """The good that the edits describe, drawn by the shop: nothing but what they paint differs."""
    catalogue: Any = getattr(data.oracle, "catalogue", None)
    if catalogue is None:
        raise PartsDoNotFit(
            f"--editor {DRAWN}: nobody can draw the goods of {data.name} anew, as the shop's can be: name an editor of "
            "your own, module:function, or take --route caption."
        )

    def edit(item: int, picture: Array, edits: Sequence[Edit]) -> Array | None:
        number = np.array([item])
        values = catalogue.of(number)
        for each in edits:
            known = catalogue.vocabularies.get(each["name"], ())
            if each["new"] not in known:
                return None
            values[each["name"]] = np.array([known.index(each["new"])])
        drawn: Array = catalogue.draw(values, number)[0]
        return drawn

    return edit


def _picture(made: object, editor: str) -> Array:
    if not isinstance(made, np.ndarray) or made.dtype != np.uint8:
        raise BadData(f"--editor {editor} must give uint8 [height, width, 3] or None, and gave {type(made).__name__}.")
    return made
