"""Which images a ledger has seen at each stage: two bits per image and stage, one byte per image.

A byte per image is a gigabyte for a billion images; pages that no image touches cost nothing (zeroed memory is lazy).
"""

from __future__ import annotations

import base64

import numpy as np

MOST_STAGES = 4
_BLOCK_SHIFT = 16

Snapshot = dict[str, list[str]]
"""Per block of 65,536 ids that has seen any image, for each stage: "" none leased, "all", or the packed bits in base64."""


class SeenImages:
    """Leased and settled marks, keyed by image_id, and their counts.

    Raises ValueError for more than 4 stages.
    """

    def __init__(self, num_stages: int, id_limit: int) -> None:
        """id_limit: ids are below it, or the bitmap grows."""
        if num_stages > MOST_STAGES:
            raise ValueError(f"a cascade may have at most {MOST_STAGES} stages, got {num_stages}; join some")
        self.bits = np.zeros(max(id_limit, 1), np.uint8)
        self.num_leased = [0] * num_stages
        self.num_settled = [0] * num_stages
        self._changed: set[int] = set()
        self._blocks: Snapshot = {}

    def snapshot(self) -> Snapshot:
        """What :meth:`restore` needs; only blocks that changed since the last call are packed again."""
        for block in self._changed:
            bits = self.bits[block << _BLOCK_SHIFT : (block + 1) << _BLOCK_SHIFT]
            self._blocks[str(block)] = [_pack((bits & _leased(stage)) != 0) for stage in range(len(self.num_leased))]
        self._changed.clear()
        return self._blocks

    def restore(self, snapshot: Snapshot) -> None:
        """Mark in an empty instance what was leased when the snapshot was taken; all of it counts as settled."""
        for block, stages in snapshot.items():
            start = int(block) << _BLOCK_SHIFT
            for stage, text in enumerate(stages):
                image_ids = _unpack(text) + start
                self.lease(stage, image_ids)
                self.settle(stage, image_ids)

    @property
    def num_computing(self) -> list[int]:
        """Per stage: images that are leased and not settled."""
        return [max(0, leased - settled) for leased, settled in zip(self.num_leased, self.num_settled, strict=True)]

    def lease(self, stage: int, image_ids: np.ndarray) -> int:
        """Mark a batch; returns how many were new to this stage.

        An image that reaches a later stage has been through the earlier ones, whatever is known of them.
        """
        bits_n = self._take(image_ids)
        new = self._add(bits_n, _leased(stage), self.num_leased, stage)
        for earlier in range(stage):
            self._add(bits_n, _leased(earlier), self.num_leased, earlier)
            self._add(bits_n, _settled(earlier), self.num_settled, earlier)
        self._put(image_ids, bits_n)
        return new

    def settle(self, stage: int, image_ids: np.ndarray) -> int:
        """Mark a batch as settled; returns how many were not settled at this stage before."""
        bits_n = self._take(image_ids)
        newly = self._add(bits_n, _settled(stage), self.num_settled, stage)
        self._put(image_ids, bits_n)
        return newly

    def skip(self, image_ids: np.ndarray) -> None:
        """Mark images as seen and done at the first stage."""
        self.lease(0, image_ids)
        self.settle(0, image_ids)

    def all_settled(self, stage: int, image_ids: np.ndarray) -> bool:
        """True when every image of the batch is settled at this stage."""
        return bool((self._take(image_ids) & _settled(stage)).all())

    def _take(self, image_ids: np.ndarray) -> np.ndarray:
        if not len(image_ids):
            return np.zeros(0, np.uint8)
        if int(image_ids.min()) < 0:
            raise ValueError(f"image_id must be >= 0, got {int(image_ids.min())}; ids are positions in the manifest")
        self._reach(int(image_ids.max()))
        return self.bits[image_ids]

    def _put(self, image_ids: np.ndarray, bits_n: np.ndarray) -> None:
        self.bits[image_ids] = bits_n
        if len(image_ids):
            low, high = int(image_ids.min()) >> _BLOCK_SHIFT, int(image_ids.max()) >> _BLOCK_SHIFT
            self._changed.update([low] if low == high else np.unique(image_ids >> _BLOCK_SHIFT).tolist())

    def _reach(self, image_id: int) -> None:
        if image_id >= len(self.bits):
            grown = np.zeros(max(image_id + 1, len(self.bits) * 3 // 2), np.uint8)
            grown[: len(self.bits)] = self.bits
            self.bits = grown

    def _add(self, bits_n: np.ndarray, bit: np.uint8, counts: list[int], stage: int) -> int:
        """Set ``bit`` in place and count the images that did not have it."""
        new = len(bits_n) - int(np.count_nonzero(bits_n & bit))
        bits_n |= bit
        counts[stage] += new
        return new


def _pack(leased: np.ndarray) -> str:
    # Not compressed: full and empty blocks are short as they are, and in random order bits do not compress. A block at
    # the end of the bitmap is never "all": after the bitmap has grown, that word would stand for more images.
    if len(leased) == 1 << _BLOCK_SHIFT and leased.all():
        return "all"
    return base64.b64encode(np.packbits(leased).tobytes()).decode() if leased.any() else ""


def _unpack(text: str) -> np.ndarray:
    """Positions of the leased bits in their block."""
    if text == "all":
        return np.arange(1 << _BLOCK_SHIFT)
    return np.flatnonzero(np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)))


def _leased(stage: int) -> np.uint8:
    return np.uint8(1 << (2 * stage))


def _settled(stage: int) -> np.uint8:
    return np.uint8(2 << (2 * stage))
