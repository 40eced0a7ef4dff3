"""Divide rows into the parts that explanations take out, and choose what stands in their place.

Conventions
-----------
A part is a stretch of time of a lead, a patch of an image or a band of a spectrum; parts cover
a row of a `Probe`'s view once.
"""

import itertools

import numpy as np


class Cells:
    """A row of the view divided into parts: stretches of time of each lead, patches of an image, bands of a spectrum.

    Parameters
    ----------
    probe : Probe
        Says the shape.
    parts : int
        Stretches of time of one lead; patches of an image are about as many as fit its axes.
    leads : bool, default True
        Divide signals by lead too.
    """

    def __init__(self, probe, parts, *, leads=True):
        shape = probe.x.shape[1:]
        if probe.is_images:  # patches, at least 2 pixels high and 1 wide; channels together
            high = min(max(shape[0] // 2, 1), max(4, parts // 4))
            wide = min(shape[1], parts)
            edges = [np.arange(shape[0]) * high // shape[0], np.arange(shape[1]) * wide // shape[1]]
        elif probe.is_spectra or not leads:
            edges = [np.arange(shape[0]) * min(parts, shape[0]) // shape[0]]
        else:
            count = min(parts, shape[0])
            if shape[1] > 2:  # many leads: fewer, longer stretches
                count = max(12, min(count, 480 // shape[1]))
            edges = [np.arange(shape[0]) * count // shape[0], np.arange(shape[1])]
        self.counts = tuple(int(e[-1]) + 1 for e in edges)
        self.n = int(np.prod(self.counts))
        grid = np.arange(self.n).reshape(self.counts)
        ids = grid[np.ix_(*edges)]
        self._ids = ids if ids.ndim == len(shape) else ids[..., None]  # broadcasts against a row
        self._shape = shape
        self._sizes = np.bincount(ids.ravel(), minlength=self.n)

    def where(self, mask):
        """Masks (n,) or (m, n) of parts as masks of rows, (..., 1) on axes that are not divided."""
        return np.asarray(mask, bool)[..., self._ids]

    def spread(self, values):
        """Values of parts (m, n) over their samples or pixels, evenly: (m, ...) without undivided axes."""
        return (values / self._sizes)[:, self._ids.reshape(self._ids.shape[: len(self.counts)])]

    def gather(self, view):
        """Attribution of rows (m, ...) summed over each part: (m, n)."""
        ids = self._ids.reshape(self._ids.shape[: len(self.counts)])
        view = view if view.ndim == ids.ndim + 1 else view.sum(axis=-1)
        flat = view.reshape(len(view), -1)
        return np.stack([np.bincount(ids.ravel(), weights=row, minlength=self.n) for row in flat])

    def tree(self):
        """A linkage matrix (n - 1, 4), as SciPy's, that halves the parts along their longest axis again and again."""
        merges = []

        def halved(box):
            sizes = [stop - start for start, stop in box]
            if max(sizes) == 1:
                return int(np.ravel_multi_index([start for start, _ in box], self.counts)), 1
            axis = int(np.argmax(sizes))
            start, stop = box[axis]
            middle = (start + stop) // 2
            (a, n_a), (b, n_b) = (
                halved(box[:axis] + (half,) + box[axis + 1 :])
                for half in ((start, middle), (middle, stop))
            )
            merges.append((a, b, n_a + n_b, n_a + n_b))
            return self.n + len(merges) - 1, n_a + n_b

        halved(tuple((0, count) for count in self.counts))
        return np.array(merges, float).reshape(-1, 4)


def balanced_rows(y, most, *, seed=0):
    """Row numbers of at most `most` rows, drawn from the classes in turn; y is (n,) or multi-hot (n, classes).

    Examples
    --------
    >>> sorted(balanced_rows(np.array([0, 0, 0, 0, 1]), 2))[1]
    4
    """
    rng = np.random.default_rng(seed)
    y = y.argmax(axis=1) if y.ndim == 2 else y
    rows = [rng.permutation(np.flatnonzero(y == kind)) for kind in np.unique(y)]
    drawn = [int(row) for turn in itertools.zip_longest(*rows) for row in turn if row is not None]
    return drawn[:most]


def replacement(probe, *, seed=0):
    """What stands in the place of a part taken out: the mean of up to 200 rows, of each class as many."""
    return probe.x[balanced_rows(probe.y, 200, seed=seed)].mean(axis=0)
