"""What an answer must pass: the edits are made, everywhere and alone; the negative is neither a copy nor a stranger."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from foilrec.content.encoder import Array, Encoder, cosines
from foilrec.content.goods import Item
from foilrec.content.templates import EVERYWHERE
from foilrec.errors import BadOption

BANDS = {"hashed": (0.2, 0.98)}  # of encoders that do not know meanings: every changed word counts in full
BAND = (0.55, 0.97)


class Fault(NamedTuple):
    """What a gate holds against an answer: the gate's name, and a sentence for the model and for the record."""

    gate: str
    told: str


@dataclass(frozen=True)
class Gates:
    """Limits: lo <= cos(positive, negative) <= hi in each modality, distances that differ by `balance` at most.

    near: from which cosine on a negative is a copy of another item that the user took.
    """

    lo: float
    hi: float
    balance: float = 0.15
    near: float = 0.97

    def __post_init__(self) -> None:
        if not -1 <= self.lo < self.hi <= 1:
            raise BadOption(f"The contrast band {self.lo} to {self.hi} must rise within -1 .. 1.")
        if self.balance < 0 or not -1 <= self.near <= 1:
            raise BadOption(f"balance = {self.balance} must be 0 or more, and near = {self.near} a cosine.")

    @classmethod
    def of(cls, encoder: str, band: tuple[float, float] | None = None, **others: float) -> "Gates":
        """The limits that suit an encoder."""
        return cls(*(band or BANDS.get(encoder, BAND)), **others)

    def as_dict(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def said(value: str, text: str) -> bool:
    """Whether a text has the words of a value, one after another, with or without a plural's ending.

    >>> said("Stainless steel", "a stainless-steel pot"), said("men", "for women")
    (True, False)
    """
    words = re.findall(r"\w+", value.casefold())
    if not words:
        return value.strip() in text
    return re.search(r"\b" + r"\W+".join(words) + r"(?:s|es)?\b", text.casefold()) is not None


def views(texts: Mapping[str, str], captions: Mapping[str, str]) -> dict[str, str]:
    """What each modality says in words: {"text": title and description, "image": caption}."""
    return {"text": ". ".join(t.rstrip(".") for t in texts.values() if t), **captions}


def of_item(item: Item, analysis: Mapping[str, Any]) -> dict[str, str]:
    """The views of a positive."""
    return views({"title": item.title, "description": item.description}, analysis["captions"])


def of_answer(answer: Mapping[str, Any]) -> dict[str, str]:
    """The views of a negative."""
    captions = {name: part["caption"] for name, part in answer.items() if name not in ("text", "echo")}
    return views(answer["text"], captions)


def tidied(item: Item, analysis: Mapping[str, Any]) -> dict[str, Any]:
    """The same with each attribute once, the first of its name, and shown everywhere if all modalities say it."""
    seen, first = of_item(item, analysis), dict[str, dict[str, Any]]()
    for a in analysis["attributes"]:
        everywhere = all(said(a["value"], text) for text in seen.values())
        first.setdefault(a["name"].casefold(), {**a, "modality": EVERYWHERE if everywhere else a["modality"]})
    return {**analysis, "attributes": list(first.values())}


def analysed(item: Item, analysis: Mapping[str, Any]) -> list[Fault]:
    """Key attributes are told in the words of what is said to show them."""
    seen, faults = of_item(item, analysis), []
    for a in analysis["attributes"]:
        where = [m for m in _shown(a["modality"], seen) if not said(a["value"], seen[m])]
        if a["kind"] == "key" and where:
            told = f"the value {a['value']!r} of {a['name']} is not in the words of {', '.join(where)}"
            faults.append(Fault("attributes", told))
    return faults


def planned(item: Item, analysis: Mapping[str, Any], plan: Mapping[str, Any]) -> list[Fault]:
    """Edits of different attributes, to values not said so far, that show in every modality."""
    seen, edits, faults = of_item(item, analysis), plan["edits"], []
    names = [edit["name"] for edit in edits]
    if len(set(names)) < len(names):
        faults.append(Fault("edits", "an attribute is edited twice"))
    for edit in edits:
        if any(said(edit["new"], text) for text in seen.values()):
            faults.append(
                Fault("edits", f"the new value {edit['new']!r} of {edit['name']} is said of the item already")
            )
    blank = [m for m in seen if not any(m in _shown(edit["modality"], seen) for edit in edits)]
    if blank:
        faults.append(Fault("coverage", f"no edit shows in {', '.join(blank)}"))
    return faults


def _shown(modality: str, seen: Mapping[str, str]) -> list[str]:
    return list(seen) if modality == EVERYWHERE else [modality]


def generated(
    item: Item, analysis: Mapping[str, Any], plan: Mapping[str, Any], answer: Mapping[str, Any]
) -> list[Fault]:
    """The echo is the edits; they are made wherever they show, and what else was said is still said."""
    before, after, edits = of_item(item, analysis), of_answer(answer), plan["edits"]
    faults = []
    if {(e["name"], e["new"]) for e in answer["echo"]} != {(e["name"], e["new"]) for e in edits}:
        faults.append(Fault("echo", "the echo is not the edits"))
    faults += [fault for edit in edits for fault in _made(edit, before, after)]
    changed = {edit["name"] for edit in edits}
    for a in analysis["attributes"]:
        lost = [m for m in after if said(a["value"], before[m]) and not said(a["value"], after[m])]
        if a["name"] not in changed and lost:
            faults.append(Fault("kept", f"{a['name']} {a['value']!r} is lost in {', '.join(lost)}"))
    return faults


def _made(edit: Mapping[str, str], before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Fault]:
    for modality in _shown(edit["modality"], after):
        if not said(edit["new"], after[modality]):
            yield Fault("intervened", f"the new {edit['name']} {edit['new']!r} is not said in {modality}")
    old = [m for m in after if said(edit["old"], before[m]) and said(edit["old"], after[m])]
    if old and not said(edit["old"], edit["new"]):
        yield Fault("intervened", f"the old {edit['name']} {edit['old']!r} is still said in {', '.join(old)}")


class Measured(NamedTuple):
    """Cosine of negative and positive by modality, and of the negative's text to the nearest of the user's others."""

    cosines: dict[str, float]
    nearest: float | None
    faults: list[Fault]


def measured(
    before: Mapping[str, str], after: Mapping[str, str], encoder: Encoder, gates: Gates, others: Sequence[Array] = ()
) -> Measured:
    """How far a negative is from its positive, and from rows [F] of items that it must not be a copy of."""
    rows = encoder([*before.values(), *(after[m] for m in before)])
    found = {
        m: round(float(c), 4) for m, c in zip(before, cosines(rows[: len(before)], rows[len(before) :]), strict=True)
    }
    nearest = round(float(cosines(np.stack(others), rows[len(before)][None]).max()), 4) if len(others) else None
    faults = []
    for modality, cosine in found.items():
        if not gates.lo <= cosine <= gates.hi:
            side = "like" if cosine > gates.hi else "unlike"
            faults.append(Fault("contrast", f"{modality} is too {side} the original (cosine {cosine:.2f})"))
    if max(found.values()) - min(found.values()) > gates.balance:
        told = ", ".join(f"{m} by {1 - c:.2f}" for m, c in found.items())
        faults.append(Fault("balance", f"the modalities differ unevenly from the original: {told}"))
    if nearest is not None and nearest >= gates.near:
        faults.append(Fault("near copy", "it is nearly another item that the same person took"))
    return Measured(found, nearest, faults)
