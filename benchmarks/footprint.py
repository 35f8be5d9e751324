"""Every backbone on the real Baby: set-up, an epoch, an evaluation and peak memory, each in a process of its own."""

import json
import subprocess
import sys

from benchmarks.clock import Row

CHILD = """
import json, sys, time, torch
import foilrec.stretch
from foilrec.evaluation import evaluate
from foilrec.recipe import Recipe
torch.set_num_threads(1)
recipe = Recipe.load(sys.argv[1], ["threads=1", "train.epochs=3"])
cpu, wall = time.process_time(), time.perf_counter()
data = recipe.read()
data.seen
model, *_ = recipe.build(data)
spent = time.process_time() - cpu, time.perf_counter() - wall
import tempfile
run = foilrec.stretch.train(recipe, tempfile.mkdtemp() + "/run", data=data)
epoch = min(run.epochs(), key=lambda each: each["cpu_seconds"])
model = run.model
clock = time.process_time(), time.perf_counter()
evaluate(model, recipe.protocol("valid"))
clock = time.process_time() - clock[0], time.perf_counter() - clock[1]
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0])
found = {"cpu": spent[0], "wall": spent[1], "peak": peak / 2**20, "evaluation": clock[0]}
print(json.dumps({**found, "epoch": epoch["cpu_seconds"], "epoch_wall": epoch["wall_seconds"]}))
"""


def told(recipe: str) -> dict[str, float] | None:
    """What one recipe costs, or None where the data is not there."""
    done = subprocess.run([sys.executable, "-c", CHILD, recipe], capture_output=True, text=True, check=False)
    if done.returncode:
        print("footprint: left out, since Baby is not there (FOILREC_DATA):", done.stderr.strip().splitlines()[-1])
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


EVERY = {
    "BPR-MF": "bprmf-baby",
    "LightGCN": "lightgcn-baby",
    "FREEDOM": "freedom-baby",
    "MMGCN": "mmgcn-baby",
    "SLMRec": "slmrec-baby",
    "BM3": "bm3-baby",
    "LATTICE": "lattice-baby",
    "MCDRec": "mcdrec-baby",
    "CCDRec around FREEDOM": "ccdrec-freedom-baby",
}


def rows() -> list[Row]:
    """Seconds to read and set up, peak memory of three epochs with their evaluations, and the quickest of these."""
    found = {name: told(f"recipes/{recipe}.toml") for name, recipe in EVERY.items()}
    there = {name: each for name, each in found.items() if each is not None}
    if len(there) < len(EVERY):
        return []
    alone, around = there["FREEDOM"], there["CCDRec around FREEDOM"]
    note = f"peak {alone['peak']:.2f} GB (bar: 0.7); CPU seconds to read and set up (bar: 1)"
    more = f"peak {around['peak']:.2f} GB, {around['peak'] - alone['peak']:.2f} more than FREEDOM alone (bar: 0.2)"
    return [
        Row("FREEDOM on Baby, set-up", alone["cpu"], alone["wall"], note=note),
        Row("CCDRec around FREEDOM on Baby, set-up", around["cpu"], around["wall"], note=more),
        *(
            Row(
                f"{name} on Baby, an epoch",
                each["epoch"],
                each["epoch_wall"],
                note=f"as in {EVERY[name]}.toml; evaluation {each['evaluation']:.2f} CPU s, peak {each['peak']:.2f} GB",
            )
            for name, each in there.items()
        ),
    ]
