"""Is a path on a file system that several machines share?

SQLite's write-ahead log needs memory shared by all its users, which no network file system has.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

# by the names of /proc/mounts; every fuse.* but the local ones counts too
_NETWORK = frozenset(
    {
        *("nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ceph"),
        *("glusterfs", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2", "ncpfs", "coda", "orangefs"),
        *("pvfs2", "wekafs", "virtiofs", "vboxsf", "prl_fs", "drvfs", "davfs"),
    }
)
_LOCAL_FUSE = frozenset({"fuse.ntfs-3g", "fuse.exfat", "fuse.fuse-overlayfs", "fuse.bindfs"})


def network_type(path: Path, mounts: str | None = None) -> str | None:
    """The type of the network file system that `path` lies on, or None for a local one.

    path: need not exist. mounts: text in the format of /proc/mounts, for tests. Where the system
    has no /proc/mounts, every path counts as local.
    """
    if mounts is None:
        try:
            names = sys.getfilesystemencoding()
            mounts = Path("/proc/mounts").read_text(encoding=names, errors="surrogateescape")
        except OSError:
            return None
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = _unescape(fields[1])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # a later mount on the same point hides the earlier one
        if inside and len(point) >= len(best):
            best, kind = point, fields[2].lower()
    remote_fuse = kind.startswith("fuse.") and kind not in _LOCAL_FUSE
    return kind if kind in _NETWORK or remote_fuse else None


def _unescape(field: str) -> str:
    # blanks, backslashes and # stand there as \040 and the like
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)
