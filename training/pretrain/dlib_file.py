"""Smaller files of dlib's shape predictors: leaf values with one byte of mantissa, in dlib's own format.

dlib writes every number as packed integers: a byte that holds the count of the bytes after it and the sign, then the
magnitude, lowest byte first. A float is its mantissa and its exponent, and low bytes of the mantissa that are zero are
not written. Leaf values are small corrections, summed over more than a thousand trees; rounded to 8 significant bits
they take 4 bytes instead of 6, and any dlib reads the file as before.
"""

from __future__ import annotations

from pathlib import Path

SIGN = 0x80
KEEP_BITS = 8


class _Copier:
    """Copies packed integers from one buffer to another, leaf values rounded."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position, self.out = data, 0, bytearray()

    def read(self) -> int:
        """Read one integer."""
        control = self.data[self.position]
        count = control & 0x0F
        first = self.position + 1
        self.position = first + count
        if not 1 <= count <= 8 or self.position > len(self.data):
            raise ValueError("is no shape predictor of dlib, or is damaged")
        value = int.from_bytes(self.data[first:self.position], "little")
        return -value if control & SIGN else value

    def write(self, value: int) -> None:
        """Write one integer."""
        size = max(1, (abs(value).bit_length() + 7) // 8)
        self.out.append(size | (SIGN if value < 0 else 0))
        self.out += abs(value).to_bytes(size, "little")

    def copy(self) -> int:
        """Copy one integer and return it."""
        value = self.read()
        self.write(value)
        return value

    def copy_rounded(self) -> None:
        """Copy one float, rounded to ``KEEP_BITS`` significant bits."""
        mantissa, exponent = self.read(), self.read()
        extra = abs(mantissa).bit_length() - KEEP_BITS
        if extra > 0:
            magnitude = (abs(mantissa) + (1 << (extra - 1))) >> extra
            if magnitude >> KEEP_BITS:  # rounded up to the next power of two
                magnitude, extra = magnitude >> 1, extra + 1
            mantissa, exponent = magnitude if mantissa > 0 else -magnitude, exponent + extra
        self.write(mantissa)
        self.write(exponent)

    def copy_matrix(self, *, rounded: bool) -> None:
        """Copy a matrix of floats; its size is written negated."""
        for _ in range(self.copy() * self.copy()):
            if rounded:
                self.copy_rounded()
            else:
                self.copy(), self.copy()

    def copy_tree(self) -> None:
        """Copy one regression tree: splits (two pixels and a threshold each), then leaves."""
        for _ in range(self.copy()):
            for _ in range(4):  # two indices, mantissa and exponent
                self.copy()
        for _ in range(self.copy()):
            self.copy_matrix(rounded=True)


def rounded_predictor(data: bytes) -> bytes:
    """Return a predictor file's bytes with rounded leaf values.

    Raises:
        ValueError: if the bytes are no such file.
    """
    copier = _Copier(data)
    if copier.copy() != 1:
        raise ValueError("is no shape predictor of dlib of format 1")
    try:
        copier.copy_matrix(rounded=False)
        for _ in range(copier.copy()):
            for _ in range(copier.copy()):
                copier.copy_tree()
    except IndexError as error:
        raise ValueError("is no shape predictor of dlib, or is damaged") from error
    # Where the trees look follows; it stays as it is.
    return bytes(copier.out) + data[copier.position:]


def shrink_predictor(path: Path) -> None:
    """Round the leaf values of a predictor file in place; raises ValueError naming a file that is none."""
    try:
        small = rounded_predictor(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    path.write_bytes(small)
