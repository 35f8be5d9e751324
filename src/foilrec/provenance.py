"""What a result depends on besides its recipe: versions, threads, and the content of the data."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from foilrec.core import Data
from foilrec.recipe import Recipe


def about(recipe: Recipe, data: Data) -> dict[str, Any]:
    """What a result depends on besides the recipe: versions, threads, and the data's content."""
    libraries = {name: version(name) for name in ("foilrec", "torch", "numpy")}
    return {
        "versions": {**libraries, "python": platform.python_version()},
        "machine": platform.machine(),
        "folder": str(Path.cwd()),
        "threads": torch.get_num_threads(),
        "protocol": recipe.protocol("test").as_dict(),
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "interactions": data.interactions,
            "split": data.split,
            "rows": [len(part) for part in (data.train, data.valid, data.test)],
            "users": data.n_users,
            "items": data.n_items,
            "notes": list(data.notes),
            "surrogate": [name for name, f in data.features.items() if f.surrogate],
        },
    }


def free_cores() -> int:
    """Cores that nobody else is using just now, at least one: a second thread on a busy core costs more than it
    brings."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, round(usable - busy))
