"""Colour profiles for tests: matrix and gamma (ICC.1:2001-04), as cameras and screens have them."""

from __future__ import annotations

import struct


def _fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _text(kind, text):
    body = text.encode() + b"\0"
    data = kind + b"\0\0\0\0" + (struct.pack(">I", len(body)) + body + b"\0" * 78 if kind == b"desc" else body)
    return data + b"\0" * (-len(data) % 4)


def profile(name, columns, gamma, *, space=b"RGB "):
    """Return an ICC profile; ``columns`` are the XYZ of its primaries, or nothing for greys."""
    tags = [(b"desc", _text(b"desc", name)), (b"cprt", _text(b"text", "for a test, CC0")),
            (b"wtpt", b"XYZ \0\0\0\0" + _fixed(0.9642, 1.0, 0.8249))]
    if columns:
        for channel, xyz in zip(b"rgb", columns, strict=True):
            tags += [(bytes([channel]) + b"XYZ", b"XYZ \0\0\0\0" + _fixed(*xyz)), (bytes([channel]) + b"TRC", _curve(gamma))]
    else:
        tags.append((b"kTRC", _curve(gamma)))
    table, body, offset = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for tag, data in tags:
        table += tag + struct.pack(">II", offset + len(body), len(data))
        body += data
    head = struct.pack(">I4xI4s4s4s", offset + len(body), 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 24 + struct.pack(">I", 0) + _fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + table + body


P3 = profile("P3-like", [(0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)], 2.2)
ADOBE = profile("Adobe-like", [(0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)], 2.2)
WIDE = profile("ProPhoto-like", [(0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249)], 1.8)
GREY = profile("Grey 1.0", [], 1.0, space=b"GRAY")
