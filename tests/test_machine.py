"""The machine: memory that is freed stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from asr.machine import ALLOCATOR

PAGES = """
import resource, statistics, torch
from asr.machine import use_machine

def asked_for():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = statistics.median_low(asked_for() for _ in range(20))
use_machine(1)
after = statistics.median_low(asked_for() for _ in range(30))
print(before, after, torch.get_num_threads())
"""


def glibc() -> tuple[int, ...]:
    name, version = platform.libc_ver()
    return tuple(map(int, version.split("."))) if name == "glibc" else ()


@pytest.mark.skipif(glibc() < (2, 35), reason="without glibc 2.35 such a piece cannot be kept")
def test_memory_is_kept_from_step_to_step() -> None:
    """The system hands out pages of 4 KB, or of 2 MB. What the user says of memory is left."""
    plain = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    for environment in (plain, plain | {"MALLOC_TRIM_THRESHOLD_": "1000000"}):
        run = subprocess.run(
            [sys.executable, "-c", PAGES],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        before, after, threads = map(int, run.stdout.split())
        assert before >= 32, run.stdout
        assert threads == 1
        assert (after < 16) == (environment == plain), run.stdout
