"""How many cores this process may use: a container's share counts, not the machine it runs on."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = _CGROUPS) -> int:
    """The cores that the scheduler allows, or fewer where the control group's quota (version 2 or 1) is smaller, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(cgroups: Path) -> float | None:
    try:
        if (second := cgroups / "cpu.max").is_file():
            share, period = second.read_text("ascii").split()
        else:
            first = cgroups / "cpu"
            share, period = ((first / f"cpu.cfs_{name}_us").read_text("ascii").strip() for name in ("quota", "period"))
        return float(share) / float(period) if float(share) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # none is set ("max"), or this is not Linux
        return None
