"""Memory and set-up of FREEDOM, alone and in CCDRec, on the real Baby, each in a process of its own."""

import json
import subprocess
import sys

from benchmarks.clock import Row

CHILD = """
import json, sys, time, torch
import foilrec.run
from foilrec.recipe import Recipe
torch.set_num_threads(1)
recipe = Recipe.load(sys.argv[1], ["threads=1", "train.epochs=3"])
cpu, wall = time.process_time(), time.perf_counter()
data = recipe.read()
data.seen
model, *_ = recipe.build(data)
spent = time.process_time() - cpu, time.perf_counter() - wall
import tempfile
foilrec.run.train(recipe, tempfile.mkdtemp() + "/run", data=data)
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0])
print(json.dumps({"cpu": spent[0], "wall": spent[1], "peak": peak / 2**20}))
"""


def told(recipe: str) -> dict[str, float] | None:
    """What one recipe costs, or None where the data is not there."""
    done = subprocess.run([sys.executable, "-c", CHILD, recipe], capture_output=True, text=True, check=False)
    if done.returncode:
        print("footprint: left out, since Baby is not there (FOILREC_DATA):", done.stderr.strip().splitlines()[-1])
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows() -> list[Row]:
    """Seconds to read and set up, and peak memory of three epochs with their evaluations."""
    alone = told("recipes/freedom-baby.toml")
    around = told("recipes/ccdrec-freedom-baby.toml") if alone else None
    if not alone or not around:
        return []
    note = f"peak {alone['peak']:.2f} GB (bar: 0.7); CPU seconds to read and set up (bar: 1)"
    more = f"peak {around['peak']:.2f} GB, {around['peak'] - alone['peak']:.2f} more than FREEDOM alone (bar: 0.2)"
    return [
        Row("FREEDOM on Baby", alone["cpu"], alone["wall"], note=note),
        Row("CCDRec around FREEDOM on Baby", around["cpu"], around["wall"], note=more),
    ]
