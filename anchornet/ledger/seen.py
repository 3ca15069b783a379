"""Which images a ledger has heard of at each stage, so that a batch that comes again counts once.

A byte per image, a bit per stage: a gigabyte for a billion images. A mark keeps the counts alone: without dead workers no
image comes twice, and those that come again after both a worker and the ledger died count twice, which costs nothing but
the reserve of a few.
"""

from __future__ import annotations

import numpy as np

MOST_STAGES = 8


class SeenImages:
    """Images that were stated, keyed by image_id.

    Raises ValueError for more than 8 stages.
    """

    def __init__(self, counts: list[int], id_limit: int) -> None:
        """counts (S,): what an earlier ledger had counted at each stage. id_limit: ids are below it, or the bitmap grows."""
        if len(counts) > MOST_STAGES:
            raise ValueError(f"a cascade may have at most {MOST_STAGES} stages, got {len(counts)}; join some")
        self.counts = list(counts)
        self._bits = np.zeros(max(id_limit, 1), np.uint8)

    def add(self, stage: int, image_ids: np.ndarray) -> int:
        """Count images (n,) int64; returns how many were new to this stage. Raises ValueError for ids below 0."""
        if not len(image_ids):
            return 0
        if int(image_ids.min()) < 0:
            raise ValueError(f"image_id must be >= 0, got {int(image_ids.min())}; ids are positions in the manifest")
        self._reach(int(image_ids.max()))
        bit, bits_n = np.uint8(1 << stage), self._bits[image_ids]
        new = len(bits_n) - int(np.count_nonzero(bits_n & bit))
        self._bits[image_ids] = bits_n | bit
        self.counts[stage] += new
        return new

    def _reach(self, image_id: int) -> None:
        if image_id >= len(self._bits):
            grown = np.zeros(max(image_id + 1, len(self._bits) * 3 // 2), np.uint8)
            grown[: len(self._bits)] = self._bits
            self._bits = grown
