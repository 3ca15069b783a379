"""Images without labels, for a calibration that does without them: whatever a label job takes as its input."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from anchornet.data.listing import BLOCK_IMAGES, DatasetSettings, Listing, chosen_rows
from anchornet.data.manifest import InputSettings, list_input
from anchornet.data.reading import read_files

UNLABELLED = -1
"""Label of an image whose class is not known."""


def list_unlabelled(settings: DatasetSettings, *, seed: int) -> Listing:
    """The images that a label job would find at ``settings.path``, in an order drawn from ``seed``, every label UNLABELLED.

    Class folders are folders like any other here. Raises ValueError when there is nothing to read.
    """
    uris = list_input(InputSettings(path=settings.path))
    chosen = chosen_rows(len(uris), settings.limit, seed)
    table = pa.table(
        {
            "image_id": chosen,
            "uri": pa.array(uris, pa.string()).take(chosen),
            "label": np.full(len(chosen), UNLABELLED, np.int64),
        }
    )
    return Listing(
        blocks=[table.slice(start, BLOCK_IMAGES).combine_chunks() for start in range(0, len(chosen), BLOCK_IMAGES)],
        classes=(),
        read=read_files,
        rows_are_files=True,
        accept_truncated=settings.accept_truncated,
    )
