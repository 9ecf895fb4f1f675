"""What a training ran on, kept beside its metrics."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path

from asr.files import whole_file


def write_machine(path: Path, device: str) -> None:
    """Processor, memory and versions, and the GPU where `device` ("cuda:0") is one, as JSON.

    Raises InputError where `path` cannot be written.
    """
    import torch

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else "none"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GB",
        "GPU": gpu,
        "threads": str(torch.get_num_threads()),
        "system": platform.platform(),
        "versions": f"asr {importlib.metadata.version('asr')}, Python {platform.python_version()},"
        f" torch {torch.__version__}",
    }
    with whole_file(path) as file:
        file.write(json.dumps(facts, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
