"""How to train, apart from the parts: the table [train] of a recipe."""

from dataclasses import dataclass

from foilrec.errors import BadOption
from foilrec.measures.metrics import parse


@dataclass(frozen=True)
class Settings:
    """How to train, apart from the parts.

    batch: positives a step. epochs: at most so many. patience: stop after so many evaluations in a row without a new
    best (0: never). every: evaluate every so many epochs. select: the validation metric that chooses the best epoch;
    full-precision values are compared, and a tie is no improvement. meter: training rows whose negatives are measured
    after each epoch (0: none); nothing follows from it, so that it is no part of a recipe's digest.
    """

    batch: int = 2048
    epochs: int = 1000
    patience: int = 20
    every: int = 1
    select: str = "recall@20"
    meter: int = 256

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("epochs", 1), ("patience", 0), ("every", 1), ("meter", 0)):
            if getattr(self, name) < least:
                raise BadOption(f"train.{name} = {getattr(self, name)} must be at least {least}.")
        parse(self.select)
