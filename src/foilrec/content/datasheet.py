"""What a folder of generated negatives is: made by whom, of what, how many, refused for what, at what cost."""

from collections import Counter
from pathlib import Path
from typing import Any

from foilrec.content.store import Store
from foilrec.files import write_json, write_text

WARNING = (
    "These items do not exist. They were written by {who} from the texts of real ones, and nobody has said whether "
    "users would like them."
)


def facts(store: Store) -> dict[str, Any]:
    """Settings, outcomes by state and difficulty, reasons of rejection, and what every kind of question took."""
    about, spent = store.about(), store.spent()
    states: Counter[str] = Counter()
    gates: Counter[str] = Counter()
    by_difficulty: dict[int, Counter[str]] = {}
    for outcome in store.outcomes():
        states[outcome.state] += 1
        by_difficulty.setdefault(outcome.job.difficulty, Counter())[outcome.state] += 1
        if outcome.gate is not None:
            gates[outcome.gate] += 1
    return {
        "about": about,
        "outcomes": dict(sorted(states.items())),
        "by_difficulty": {str(d): dict(sorted(c.items())) for d, c in sorted(by_difficulty.items())},
        "rejected_by": dict(gates.most_common()),
        "spent": spent._asdict(),
        "requests": store.tally(),
    }


def write_datasheet(store: Store, folder: Path) -> None:
    """Writes datasheet.json and datasheet.md."""
    found = facts(store)
    write_json(folder / "datasheet.json", found)
    write_text(folder / "datasheet.md", page(found))


def page(found: dict[str, Any]) -> str:
    """The facts for a reader."""
    about, spent = found["about"], found["spent"]
    who = "rules over word lists, without a model," if about["backend"] == "rules" else f"the model {about['model']}"
    lines = ["# Generated negatives", "", WARNING.format(who=who), "", "## Made with", ""]
    lines += [f"- {name}: {_plain(value)}" for name, value in about.items()]
    lines += ["", "## What came of it", "", "| attributes changed | done | rejected | failed |", "|---|---|---|---|"]
    for difficulty, counts in found["by_difficulty"].items():
        cells = [str(counts.get(state, 0)) for state in ("done", "rejected", "failed")]
        lines.append(f"| {difficulty} | {' | '.join(cells)} |")
    if found["rejected_by"]:
        lines += ["", "Rejected by (question: gate):", ""]
        lines += [f"- {gate}: {count}" for gate, count in found["rejected_by"].items()]
    lines += ["", "## What it took", ""]
    lines.append(f"{spent['requests']:,} requests, {spent['tokens']:,} tokens, {spent['money']:.4f} money.")
    lines += [
        "",
        "| template | backend | model | state | requests | tokens asked | answered | counted by the backend |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in found["requests"]:
        names = ("template", "backend", "model", "state", "requests", "prompt", "completion", "counted")
        lines.append("| " + " | ".join(_plain(row[name]) for name in names) + " |")
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    """On one line of Markdown, without a bar that would end a cell."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {member}" for name, member in value.items())
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value)).replace("|", "\\|")
