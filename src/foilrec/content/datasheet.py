"""What a folder of generated negatives is: made by whom, of what, how many, refused for what, at what cost."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foilrec.content.pipeline import SILENT
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
    who: Counter[str] = Counter()
    gates: Counter[str] = Counter()
    by_difficulty: dict[int, Counter[str]] = {}
    for outcome in store.outcomes():
        states[outcome.state] += 1
        by_difficulty.setdefault(outcome.job.difficulty, Counter())[outcome.state] += 1
        if outcome.gate is not None:
            gates[outcome.gate] += 1
        if outcome.content is not None:
            who[outcome.content.get("by", about["backend"])] += 1
    return {
        "about": about,
        "items": reach(store),
        "outcomes": dict(sorted(states.items())),
        "chosen_by": dict(who.most_common()),
        "by_difficulty": {str(d): dict(sorted(c.items())) for d, c in sorted(by_difficulty.items())},
        "rejected_by": dict(gates.most_common()),
        "spent": spent._asdict(),
        "requests": store.tally(),
    }


def reach(store: Store) -> dict[str, int]:
    """How many items have a negative, and what became of the others: each item once."""
    items: dict[str, set[int]] = {"with negatives": set(), "no known value": set(), "refused": set()}
    for outcome in store.outcomes():
        silent = "no known value" if outcome.gate == SILENT else "refused"
        items["with negatives" if outcome.state == "done" else silent].add(outcome.job.item)
    items["refused"] -= items["with negatives"]
    found = {name: len(which) for name, which in items.items()}
    return {**found, "not asked": store.about()["items"] - sum(found.values())}


def coverage(found: Mapping[str, int], lists: str | None) -> str:
    """The same in a line."""
    others = {
        f"say no value of the word lists {lists}": found["no known value"],
        "were refused or not answered": found["refused"],
        "were not asked for (no text, taken by nobody, or not in the sample)": found["not asked"],
    }
    told = "; ".join(f"{count:,} {what}" for what, count in others.items() if count)
    return f"{found['with negatives']:,} of {sum(found.values()):,} items have a negative" + (
        f"; {told}" if told else ""
    )


def makers(found: Mapping[str, Any]) -> str:
    """Who chose what to change, and how much came to nothing, in a line."""
    dropped = sum(count for state, count in found["outcomes"].items() if state != "done")
    return ", ".join(f"{who}: {count:,}" for who, count in [*found["chosen_by"].items(), ("dropped", dropped)])


def write_datasheet(store: Store, folder: Path) -> None:
    """Writes datasheet.json and datasheet.md."""
    found = facts(store)
    write_json(folder / "datasheet.json", found)
    write_text(folder / "datasheet.md", page(found))


def page(found: dict[str, Any]) -> str:
    """The facts for a reader."""
    about, spent = found["about"], found["spent"]
    lines = ["# Generated negatives", "", WARNING.format(who=_who(about)), "", "## Made with", ""]
    lines += [f"- {name}: {_plain(value)}" for name, value in about.items()]
    lines += ["", "## What came of it", "", f"{coverage(found['items'], about.get('word lists'))}.", ""]
    lines += [
        f"Negatives by who chose what to change: {makers(found)}.",
        "",
        "| attributes changed | done | rejected | failed |",
        "|---|---|---|---|",
    ]
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


def _who(about: Mapping[str, Any]) -> str:
    """Whose words these are."""
    if about["backend"] == "rules":
        return "rules over word lists, without a model,"
    if about.get("chooses"):
        return f"rules over word lists, the model {about['model']} choosing what to change,"
    return f"the model {about['model']}" + ("" if about.get("asked") is None else ", or by rules without a model,")


def _plain(value: object) -> str:
    """On one line of Markdown, without a bar that would end a cell."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {member}" for name, member in value.items())
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value)).replace("|", "\\|")
