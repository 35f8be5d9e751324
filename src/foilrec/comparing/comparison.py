"""What a comparison of runs found, as values, text, Markdown, LaTeX and plain trees."""

from dataclasses import asdict, dataclass
from typing import Any

from foilrec.comparing import typeset


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def show(self, form: str) -> str:
        """The three numbers, each in that format: «0.0570 [0.0561, 0.0579]»."""
        value, low, high = (format(x, form).replace("%", " %") for x in (self.value, self.low, self.high))
        return f"{value} [{low.removesuffix(' %')}, {high.removesuffix(' %')}]"


@dataclass(frozen=True)
class Line:
    """One recipe by one metric.

    mean: over seeds and users. by_seed: the mean of each seed; sd: their standard deviation, of two or more. gain: on
    the reference, as a share of it. p: of the difference; p_holm: the same, corrected for all that are compared.
    """

    row: str
    metric: str
    seeds: tuple[int, ...]
    mean: Estimate
    by_seed: tuple[float, ...]
    sd: float | None = None
    gain: Estimate | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What `foilrec.comparing.compare.compare` found.

    lines: one for each metric and row. reference: the row that gains are on, None where there is one row alone. data,
    users, resamples: what the numbers rest on. notes: what else must be known.
    """

    lines: tuple[Line, ...]
    reference: str | None
    data: str
    users: int
    resamples: int
    notes: tuple[str, ...]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """The table as texts: header and body."""
        header, body = ["metric", "recipe", "seeds", "mean [95 %]", "sd of seeds", "gain [95 %]", "p, Holm"], []
        for line in self.lines:
            body.append([line.metric, line.row, str(len(line.seeds)), line.mean.show(".4f")])
            body[-1].append("" if line.sd is None else f"{line.sd:.4f}")
            body[-1].append("" if line.gain is None else line.gain.show("+.1%"))
            body[-1].append("" if line.p_holm is None else _p(line.p_holm))
        width = len(header) if self.reference is not None else len(header) - 2
        return header[:width], [row[:width] for row in body]

    def remarks(self) -> list[str]:
        """What a reader of the table must know: reference, pairing, intervals, tests; then the means by seed."""
        said = [
            f"{self.data}: {self.users:,} users. Intervals hold 95 % of {self.resamples:,} draws of users and seeds."
        ]
        if self.reference is not None:
            said.append(
                f"Gains are on {self.reference}, paired by user. p: t test over users and seeds, corrected by Holm for "
                f"{sum(line.p is not None for line in self.lines)} comparisons; * is below .05."
            )
        said += self.notes
        for line in self.lines if any(line.sd is not None for line in self.lines) else ():
            pairs = zip(line.seeds, line.by_seed, strict=True)
            said.append(f"{line.metric} of {line.row} by seed: {', '.join(f'{s}: {x:.4f}' for s, x in pairs)}")
        return said

    def to_text(self) -> str:
        """Aligned lines, and the remarks below them."""
        return "\n".join([typeset.plain(*self.cells()), "", *self.remarks()]) + "\n"

    def to_markdown(self) -> str:
        """A Markdown table, and the remarks as a list."""
        remarks = "\n".join(f"- {typeset.markdown_text(remark)}" for remark in self.remarks())
        return f"{typeset.markdown(*self.cells())}\n\n{remarks}\n"

    def to_latex(self) -> str:
        """A LaTeX tabular (package booktabs), and the remarks as comments above it."""
        return "\n".join([*(f"% {' '.join(r.split())}" for r in self.remarks()), typeset.latex(*self.cells())]) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, as JSON has them."""
        return {**asdict(self), "lines": [asdict(line) for line in self.lines]}


def _p(p: float) -> str:
    return ("<0.0001" if p < 0.0001 else f"{p:.4f}") + ("*" if p < 0.05 else " ")
