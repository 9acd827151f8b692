"""What ``doctor`` says about a SQLite file."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from motia_adapters.sqlite.queries import View
from motia_core.adapter import Finding

_QUICK = 64 * 2**20  # bytes up to which the whole file is checked
_LARGE_WAL = 256 * 2**20
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "lustre"})


def diagnose(view: View, path: Path, synchronous: str) -> list[Finding]:
    """Findings about the file that ``view`` reads. Runs in the reader thread."""
    connection = view.connection
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    size, wal = _size(path), _size(Path(f"{path}-wal"))
    findings = [
        Finding(
            "ok",
            f"SQLite {sqlite3.sqlite_version}, {path}: {_readable(size)}, WAL {_readable(wal)},"
            f" journal_mode={mode}, synchronous={synchronous}",
        )
    ]
    if synchronous == "NORMAL":
        findings.append(
            Finding("ok", "a power cut may lose the last commits (their loss is detected)", 'synchronous = "FULL"')
        )
    if wal > _LARGE_WAL:
        findings.append(
            Finding("warning", "the WAL file is large: some program keeps a read transaction open", "end that program")
        )
    kind = _file_system(path)
    if kind in _NETWORK:
        findings.append(
            Finding(
                "error",
                f"the file lies on a network file system ({kind}), where SQLite's locks and WAL do not work",
                "move it to a local disk, or choose a storage that is a server",
            )
        )
    if view.rows is not None:
        findings += view.rows.diagnose(connection)
    if size <= _QUICK:
        problems = [problem for (problem,) in connection.execute("PRAGMA quick_check(5)") if problem != "ok"]
        findings += [Finding("error", f"damaged: {problem}", "restore the file from a backup") for problem in problems]
    return findings


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _readable(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def _file_system(path: Path) -> str | None:
    """The type of the file system that holds ``path``, where the system tells (Linux)."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
        real = os.path.realpath(path)
    except OSError:
        return None
    best = ("", None)
    for line in lines:
        _, mount, kind, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        prefix = mount if mount.endswith("/") else f"{mount}/"
        if real.startswith(prefix) and len(mount) >= len(best[0]):
            best = (mount, kind)  # type: ignore[assignment]
    return best[1]
