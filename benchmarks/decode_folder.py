"""Every file below a folder through our decoder: how many are read, and why the others are not.

    python -m benchmarks.decode_folder FOLDER

For collections of strange images, such as the test images of Pillow (its source package, ``Tests/images``) and of torchvision
(``test/assets``). Anything but pixels or a reason ends the run with that error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from anchornet.images.decode import read_picture
from anchornet.images.formats import ImageError

SLOW_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every file gave pixels or a reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    reasons: Counter[str] = Counter()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        started = time.perf_counter()
        try:
            read_picture(path.read_bytes())
            reason = "read"
        except ImageError as error:
            reason = str(error)
            print(f"{path.relative_to(folder)}: {reason}")
        reasons[reason] += 1
        if time.perf_counter() - started > SLOW_S:
            print(f"{path.relative_to(folder)}: took {time.perf_counter() - started:.0f} s")
    print("\n".join(f"{count:6d} {reason}" for reason, count in reasons.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
