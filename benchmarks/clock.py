"""CPU and wall seconds, peak memory, and a stored line for each figure."""

import json
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: CPU time of the process, and wall time."""

    cpu: float
    wall: float


def timed(call: Callable[[], object], repeats: int = 1) -> Timing:
    """The least CPU and wall seconds of some calls."""
    best = Timing(float("inf"), float("inf"))
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        best = Timing(min(best.cpu, time.process_time() - cpu), min(best.wall, time.perf_counter() - wall))
    return best


def peak_gb() -> float:
    """The most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@dataclass(frozen=True)
class Row:
    """One figure beside its usual form: ratio = usual / ours in CPU time, and the least that it should be."""

    what: str
    ours_cpu: float
    ours_wall: float
    usual_cpu: float | None = None
    usual_wall: float | None = None
    bar: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times less CPU ours takes."""
        return None if self.usual_cpu is None else self.usual_cpu / self.ours_cpu


def store(group: str, rows: list[Row], path: Path) -> None:
    """Appends JSON lines: the rows of a group of figures, all of one run."""
    where = {
        "group": group,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({**asdict(row), "ratio": row.ratio, **where}) + "\n")


def stored(group: str, path: Path) -> list[Row]:
    """The rows of a group's last run."""
    lines = [line for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if "group" in line]
    mine = [line for line in lines if line["group"] == group]
    last = max((line["at"] for line in mine), default="")
    names = [field.name for field in fields(Row)]
    return [Row(**{name: line[name] for name in names}) for line in mine if line["at"] == last]
