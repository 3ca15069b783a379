"""The demo must not depend on luck: it is run with many seeds, and each run has to keep three promises.

    python -m benchmarks.demo_seeds --seeds 20 --folder runs/demo-seeds

Each run ends with exit code 0; AnchorNet's first patch beats a random one by at least 10 points; and some budget below half
of the full network's cost reaches at least the full network's accuracy. Prints a Markdown table, a row per seed; exit status
1 when a promise is broken. A seed whose run is complete in the folder is not run again; of a finished run only its
``summary.json`` is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import line, percent

LEAST_GAIN = 0.10
"""Of AnchorNet's first patch over a random one, as accuracy."""
LARGEST_SHARE = 0.5
"""Of the full network's cost, for as much accuracy."""
COLUMNS = (
    "seed",
    "exit code",
    "AnchorNet's patch",
    "random patch",
    "full network",
    "its GFLOPs",
    "as good from, GFLOPs",
    "best below half its GFLOPs",
    "minutes",
    "holds",
)


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every run kept its promises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="seeds 0 .. N - 1 (default 20)")
    parser.add_argument("--folder", default="runs/demo-seeds", help="where the runs go (default runs/demo-seeds)")
    arguments = parser.parse_args(argv)
    print(line(COLUMNS))
    print(line(["---"] * len(COLUMNS)), flush=True)
    held = []
    for seed in range(arguments.seeds):
        code, summary = run(seed, Path(arguments.folder, f"seed-{seed}"))
        held.append(code == 0 and keeps_promises(summary))
        print(line(row(seed, code, summary, held[-1])), flush=True)
    print(f"\n{sum(held)} of {len(held)} runs keep all promises", flush=True)
    return 0 if all(held) else 1


def run(seed: int, folder: Path) -> tuple[int, dict[str, Any]]:
    """Exit code of the demo with this seed, and its summary; empty when it failed."""
    path = folder / "summary.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "jobs.demo", "--seed", str(seed), "--folder", str(folder)]
        with Path(folder, "screen.log").open("w") as screen:
            code = subprocess.run(command, stdout=screen, stderr=subprocess.STDOUT, check=False).returncode
        if code != 0:
            return code, {}
        for child in folder.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
    return 0, json.loads(path.read_bytes())


def keeps_promises(summary: dict[str, Any]) -> bool:
    """Whether a finished run shows what the demo promises."""
    gain = summary["anchor_patch_accuracy"][0] - summary["random_patch_accuracy"][0]
    return gain >= LEAST_GAIN and as_good_from(summary) <= LARGEST_SHARE * summary["full"]["gflops"]


def as_good_from(summary: dict[str, Any]) -> float:
    """GFLOPs per image of the cheapest budget that reaches the full network's accuracy; infinite when none does."""
    enough = [point["gflops"] for point in summary["frontier"] if point["accuracy"] >= summary["full"]["accuracy"]]
    return min(enough, default=float("inf"))


def row(seed: int, code: int, summary: dict[str, Any], held: bool) -> list[str]:
    """The cells of one run."""
    if not summary:
        return [str(seed), str(code), *["-"] * (len(COLUMNS) - 3), "no"]
    full = summary["full"]
    affordable = [point for point in summary["frontier"] if point["gflops"] <= LARGEST_SHARE * full["gflops"]]
    return [
        str(seed),
        str(code),
        percent(summary["anchor_patch_accuracy"][0]),
        percent(summary["random_patch_accuracy"][0]),
        percent(full["accuracy"]),
        f"{full['gflops']:.4f}",
        f"{as_good_from(summary):.4f}",
        percent(max(point["accuracy"] for point in affordable)) if affordable else "-",
        f"{sum(summary['seconds'].values()) / 60:.1f}",
        "yes" if held else "no",
    ]


if __name__ == "__main__":
    sys.exit(main())
