"""The machine: how its processors and memory are used, and what a training ran on."""

import ctypes
import importlib.metadata
import json
import os
import platform
import re
from contextlib import suppress
from pathlib import Path

from asr.files import whole_file

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
ALLOCATOR = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def use_machine(threads: int | None) -> None:
    """Run networks on so many threads (none given: as torch has it), and keep memory once taken.

    glibc gives back to the system what a step frees, and gets it anew in the next one, page by
    page: 5 to 15 % of the time of training with CTC. Other libraries, and what ALLOCATOR says, are
    left alone.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in ALLOCATOR):
        return
    libc = ctypes.CDLL(None)
    # bytes; before glibc 2.35 32 MB is the most; the second alone would be worse than nothing
    if libc.mallopt(M_MMAP_THRESHOLD, 2**28) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def write_machine(path: Path, device: str) -> None:
    """Processor, memory and versions, and the GPU where `device` ("cuda:0") is one, as JSON."""
    import torch

    told = ""
    with suppress(OSError):  # only Linux has it
        told = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    named = re.search(r"(?m)^model name.*?: *(.*\S)", told)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = {
        "processor": named[1] if named else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GB",
        "GPU": torch.cuda.get_device_name(device) if device.startswith("cuda") else "none",
        "threads": str(torch.get_num_threads()),
        "system": platform.platform(),
        "versions": f"asr {importlib.metadata.version('asr')}, Python {platform.python_version()},"
        f" torch {torch.__version__}",
    }
    with whole_file(path) as file:
        file.write(json.dumps(facts, indent=1) + "\n")
