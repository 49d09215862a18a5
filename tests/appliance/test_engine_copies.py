"""The memory of copies that were taken out of the cache, after thousands of them came and went."""

import json
import subprocess
import sys

CHURN = """
import ctypes, json, random, sys
from pathlib import Path
from plugsky.engine.llama.cache import pages

CELL, CELLS = 23_040, 2048

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))

draw, kept, small, before, worst = random.Random(1), {}, [], resident(), 0
for number in range(1000):
    cells = draw.randint(10, 400)
    while sum(held for _, held in kept.values()) + cells > CELLS:
        del kept[next(iter(kept))]
    state = pages(cells * CELL)
    ctypes.memset(state, 1, cells * CELL)
    kept[number] = state, cells
    if len(kept) > 2 and draw.random() < 0.3:
        del kept[draw.choice(list(kept))]
    small.append(bytearray(draw.randint(100, 60_000)))
    if len(small) > 200:
        del small[draw.randrange(200)]
    held = sum(held for _, held in kept.values()) * CELL + sum(map(len, small))
    worst = max(worst, resident() - before - held)
json.dump(worst, sys.stdout)
"""


def test_copies_that_come_and_go_leave_no_holes_behind():
    done = subprocess.run([sys.executable, "-c", CHURN], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) < 16 << 20
