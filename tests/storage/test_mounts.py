from __future__ import annotations

from pathlib import Path

import pytest

from storage.mounts import network_type

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/ann/local ext4 rw 0 0
server:/faces /mnt/my\\040faces\\134\\0431 cifs rw 0 0
ann@server: /mnt/ssh fuse.sshfs rw 0 0
/dev/sdc1 /mnt/usb fuse.exfat rw 0 0
/dev/sdd1 /mnt/ntfs fuseblk rw 0 0
auto /mnt/auto autofs rw 0 0
server:/auto /mnt/auto NFS rw 0 0
server:/old /mnt/over nfs rw 0 0
tmpfs /mnt/over tmpfs rw 0 0
a broken
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/search.db", None),
        ("/home/ann/search.db", "nfs4"),
        ("/home", "nfs4"),
        # a longer name is not a folder of it
        ("/homes/search.db", None),
        # the innermost mount decides
        ("/home/ann/local/search.db", None),
        ("/mnt/my faces\\#1/search.db", "cifs"),
        ("/mnt/ssh/search.db", "fuse.sshfs"),
        ("/mnt/usb/search.db", None),
        ("/mnt/ntfs/search.db", None),
        # the later one on the same folder decides
        ("/mnt/auto/search.db", "nfs"),
        ("/mnt/over/search.db", None),
    ],
)
def test_the_mount_that_holds_the_path_decides(path: str, kind: str | None) -> None:
    assert network_type(Path(path), MOUNTS) == kind


def test_a_network_root_counts_for_everything() -> None:
    assert network_type(Path("/a/b"), "server:/ / nfs rw 0 0\n") == "nfs"


def test_a_link_counts_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    # as the table writes a space
    far = str(tmp_path / "far").replace(" ", r"\040")
    mounts = f"/dev/sda1 / ext4 rw 0 0\nserver:/x {far} nfs rw 0 0\n"
    assert network_type(tmp_path / "link" / "search.db", mounts) == "nfs"
    assert network_type(tmp_path / "search.db", mounts) is None


def test_the_systems_own_table_is_read_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def table(path: Path, **_: str) -> str:
        assert path == Path("/proc/mounts")
        return "server:/ / nfs rw 0 0\n"

    def no_table(path: Path, **_: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", table)
    assert network_type(tmp_path) == "nfs"
    monkeypatch.setattr(Path, "read_text", no_table)
    assert network_type(tmp_path) is None
