"""Memory and set-up of FREEDOM on the real Baby, in a process of its own."""

import json
import subprocess
import sys

from benchmarks.clock import Row

CHILD = """
import json, time, torch
import foilrec.run
from foilrec.recipe import Recipe
torch.set_num_threads(1)
recipe = Recipe.load("recipes/freedom-baby.toml", ["threads=1", "train.epochs=3"])
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


def rows() -> list[Row]:
    """Seconds to read and set up, and peak memory of three epochs with their evaluations."""
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False)
    if done.returncode:
        print("footprint: left out, since Baby is not there (FOILREC_DATA):", done.stderr.strip().splitlines()[-1])
        return []
    told = json.loads(done.stdout.splitlines()[-1])
    note = f"peak {told['peak']:.2f} GB (bar: 0.7); CPU seconds to read and set up (bar: 1)"
    return [Row("FREEDOM on Baby", told["cpu"], told["wall"], note=note)]
