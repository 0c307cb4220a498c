"""Which precision `auto` stands for on this machine: bfloat16 where processor or GPU is built for it.

Reads what the machine says of itself and loads no library, so that a fingerprint needs none. Knows nothing of models.
"""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Literal

Precision = Literal["float32", "bfloat16"]
Asked = Literal["auto", "float32", "bfloat16"]

# Instructions that multiply bfloat16: elsewhere it is emulated, and slower than float32. Of ARM's, `bf16` alone.
INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
AMPERE = (
    8.0  # the first compute capability with bfloat16 (CUDA C++ Programming Guide, arithmetic instructions)
)
CPUINFO = Path("/proc/cpuinfo")


def resolved(asked: Asked, device: str) -> Precision:
    """What is computed in: as asked, or for `auto` the fastest that the device is built for."""
    if asked != "auto":
        return asked
    if device in ("auto", "cuda"):
        capability = gpu_capability()
        if capability is not None:
            return "bfloat16" if capability >= AMPERE else "float32"
    if device == "mps" or (device == "auto" and platform.system() == "Darwin"):
        return "float32"
    return "bfloat16" if processor_has_bfloat16() else "float32"


@lru_cache(maxsize=1)
def processor_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; False where the system does not say."""
    try:
        return has_instructions(CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


def has_instructions(cpuinfo: str) -> bool:
    """Whether what Linux says of its first processor names an instruction for bfloat16."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return not INSTRUCTIONS.isdisjoint(value.split())
    return False


@lru_cache(maxsize=1)
def gpu_capability() -> float | None:
    """The least compute capability among NVIDIA's GPUs; None where torch would use none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return None
    try:
        if metadata.version("torch").endswith("+cpu"):
            return None
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
        return min((float(line) for line in said.split()), default=None)
    except (OSError, ValueError, subprocess.SubprocessError, metadata.PackageNotFoundError):
        return None
