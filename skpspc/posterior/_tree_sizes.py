"""Sizes of the trees of patches."""

from typing import NamedTuple

LANES = 32  # patches of a cell and cells of a group, which compiled code compares together
_COORDINATES = 8  # more would exclude few more patches, and each costs time for every box


class TreeSizes(NamedTuple):
    """Sizes of the tree of n patches of d values."""

    n: int
    d: int

    @property
    def n_cells(self):
        """Number of cells; the last one may have fewer patches."""
        return -(-self.n // LANES)

    @property
    def n_groups(self):
        """Number of groups of cells."""
        return -(-self.n_cells // LANES)

    @property
    def n_tops(self):
        """Number of groups of groups."""
        return -(-self.n_groups // LANES)

    @property
    def n_coordinates(self):
        """Number of principal coordinates of a box."""
        return min(_COORDINATES, self.d)

    @property
    def n_box_numbers(self):
        """Number of numbers that describe a box: limits of coordinates and norm, and log weight."""
        return 2 * self.n_coordinates + 3

    def n_bytes(self, itemsize, weighted):
        """Return the bytes of the tree."""
        patches = self.n_cells * LANES * (self.d * itemsize + 4 * weighted)
        boxes = 4 * (self.n_groups + self.n_tops) * self.n_box_numbers * LANES
        return patches + boxes + 4 * self.d * (self.n_coordinates + 1)
