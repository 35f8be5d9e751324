"""What a generation may cost: requests, tokens, money and time, checked before every question with its estimate."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from foilrec.content.chat import Usage
from foilrec.errors import BadOption, FoilrecError, did_you_mean


class BudgetSpent(FoilrecError):
    """The next question would pass a limit: everything so far is kept."""


class Price(NamedTuple):
    """Money for a million tokens of questions and of answers, in whatever currency the table is in."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, usage: Usage) -> float:
        """What so many tokens cost."""
        return (usage.prompt * self.prompt + usage.completion * self.completion) / 1e6


class Spent(NamedTuple):
    """What a folder has cost so far: questions, tokens and money; what was in flight at a crash counts in full."""

    requests: int = 0
    tokens: int = 0
    money: float = 0.0


@dataclass(frozen=True)
class Budget:
    """Limits of a folder over all its restarts, and of this start in seconds; None: no limit."""

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None
    seconds: float | None = None

    def check(self, spent: Spent, next_one: Usage, price: Price, seconds: float) -> None:
        """BudgetSpent if the next question, by its estimate, passes a limit."""
        after = (
            ("requests", spent.requests + 1, self.requests),
            ("tokens", spent.tokens + sum(next_one), self.tokens),
            ("money", spent.money + price.of(next_one), self.money),
            ("seconds", seconds, self.seconds),
        )
        for what, value, limit in after:
            if limit is not None and value > limit:
                raise BudgetSpent(
                    f"The budget of {limit:g} {what} is spent: {spent.requests:,} requests, {spent.tokens:,} tokens, "
                    f"{spent.money:.2f} money so far."
                )


def read_prices(path: Path, model: str) -> Price:
    """A model's line of a price table, TOML: ["the-model"] prompt = 0.15, completion = 0.60 (a million tokens)."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadOption(f"--prices {path} cannot be read as TOML: {error}.") from error
    if model not in table:
        raise BadOption(f"--prices {path} has no price of {model!r}{did_you_mean(model, table) or '.'}")
    row = table[model]
    known = isinstance(row, dict) and not set(row) - set(Price._fields)
    if not known or not all(isinstance(v, int | float) and v >= 0 for v in row.values()):
        raise BadOption(f"--prices {path}: {model!r} must have prompt and completion, numbers for a million tokens.")
    return Price(**row)
