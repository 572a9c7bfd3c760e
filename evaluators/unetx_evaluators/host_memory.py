"""Memory of this machine and of this process, as the operating system reports it; no torch here."""

from __future__ import annotations

import sys
from pathlib import Path

MIB = 2**20


def available_bytes(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Free memory: what Linux calls available, or what the control group's limit leaves, if that is less; else None."""
    kib = _numbers(meminfo)
    known = [kib["MemAvailable"] * 1024] if "MemAvailable" in kib else []
    limit, used = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
    if limit.isdigit() and used.isdigit():  # a control group of version 2; "max" is no limit
        pages = _numbers(group / "memory.stat")  # of files are dropped when memory is asked for
        known.append(max(0, int(limit) - int(used) + pages.get("active_file", 0) + pages.get("inactive_file", 0)))
    return min(known, default=None)


def reset_resident_peak() -> None:
    """Set this process's peak of resident memory back to its present size, on Linux; elsewhere do nothing."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5)
    except OSError:  # another system, or a container that forbids it: the mark counts from the start
        return


def resident_peak_mib() -> float | None:
    """The peak of this process's resident memory in MiB; None where the system does not report it."""
    kib = _numbers(Path("/proc/self/status")).get("VmHWM")
    if kib is not None:
        return kib / 1024
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024  # bytes there, KiB elsewhere


def _numbers(path: Path) -> dict[str, int]:
    """The numbers by name in lines such as ``name: 12 kB`` or ``name 12``."""
    fields = (line.replace(":", " ").split() for line in _text(path).splitlines())
    return {field[0]: int(field[1]) for field in fields if len(field) > 1 and field[1].isdigit()}


def _text(path: Path) -> str:
    """Empty where there is no such file."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
