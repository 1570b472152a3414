"""PNG files of any depth and kind, byte by byte: Pillow writes few of them."""

from __future__ import annotations

import struct
import zlib


def png_of(width: int, height: int, depth: int, kind: int, data: bytes) -> bytes:
    """kind: 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA. data: compressed rows, each after a 0."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")
