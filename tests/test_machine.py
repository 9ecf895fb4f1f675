"""The machine: memory that is freed stays with the process."""

from __future__ import annotations

import subprocess
import sys

PAGES = """
import resource, torch
from asr.machine import use_machine

def asked_for():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = min(asked_for() for _ in range(20))
use_machine(1)
print(before, min(asked_for() for _ in range(20)), torch.get_num_threads())
"""


def test_memory_is_kept_from_step_to_step() -> None:
    """The system hands out pages of 4 KB, or of 2 MB."""
    run = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    before, after, threads = map(int, run.stdout.split())
    assert (before >= 32, after < 16, threads) == (True, True, 1), run.stdout
