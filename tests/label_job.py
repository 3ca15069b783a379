"""A label job in processes with a Ray of their own, which is disturbed and then goes on by the same command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from anchornet.bundle import load_bundle
from anchornet.files import storage
from anchornet.report.label_counts import label_tables
from jobs.shell.run_folder import RunFolder
from tests import tiny_bundle
from tests.heads import ROOT, until
from tests.workshop import Workshop

WAIT_S = 300.0


class LabelJob:
    """Starts of one run folder; the shop's networks write down what they compute."""

    def __init__(self, shop: Workshop, folder: Path, run: str, environment: Mapping[str, str] | None = None) -> None:
        self.shop, self.folder, self.run = shop, folder, RunFolder(run)
        self.images = shop.images
        self.times_least = 2.2
        """The budget, in first exits of every image: what was in flight when a start ended can be labelled again."""
        self.num_bad, self.num_failed = 0, 0
        """Images that shall be ``unreadable`` and ``failed`` in the end."""
        self.environment = dict(environment or {})
        self._starts = self._had = 0
        self.macs_log = folder / "forward.log"
        self.said = folder / "said"

    def start(self, *overrides: str) -> subprocess.Popen[bytes]:
        """One start more."""
        asked = [f"run.folder={self.run.uri}", f"bundle={self.shop.bundle}", f"input.path={self.images}"]
        asked += [
            f"budget.gflops_per_image={self.times_least * self.shop.minimum_gflops}",
            "rows_per_file=1",
            "max_failed_fraction=0.1",
        ]
        asked += ["pools=[{batch_size: 8}, {batch_size: 8}]", "cluster.local_cpus=4", *overrides]
        mine = {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", tiny_bundle.LOG_VARIABLE: str(self.macs_log)}
        self._starts += 1
        self._had = self._written()
        self.said = self.folder / f"said-{self._starts}"
        command = [sys.executable, "-m", "jobs.label", *(part for each in asked for part in ("--set", each))]
        with self.said.open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **mine, **self.environment},
                stdout=log,
                stderr=log,
                # Whoever runs the tests in the background has SIGINT ignored, and so would this process.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def text(self) -> str:
        """What the last start said."""
        return self.said.read_text(errors="replace")

    def ends(self) -> list[str]:
        """Its lines that say how it ended, and tracebacks."""
        return [
            line for line in self.text().splitlines() if line.startswith(("error", "interrupted", "ended", "Traceback"))
        ]

    def until_rows(self, process: subprocess.Popen[bytes]) -> None:
        """Return when this start has written some rows, and not all."""
        assert until(lambda: process.poll() is not None or self._written() >= self._had + 2, WAIT_S)
        assert process.poll() is None, self.text()[-3000:]

    def _written(self) -> int:
        return len(storage.list_files(self.run.labels)) if storage.exists(self.run.labels) else 0

    def wait(self, process: subprocess.Popen[bytes], code: int) -> None:
        """The process ends with this exit code."""
        assert process.wait(WAIT_S) == code, self.text()[-4000:]

    def report(self) -> dict[str, Any]:
        """What the last start wrote."""
        found: dict[str, Any] = json.loads(storage.read_bytes(self.run.report))
        return found

    def check(self) -> None:
        """One row per image, statuses add up, and no more was computed by the networks than the budget allows."""
        report = self.report()
        ids = pa.concat_tables(label_tables(self.run.labels))["image_id"].to_pylist()
        assert sorted(ids) == list(range(report["images"]))
        ok = report["images"] - self.num_bad - self.num_failed
        assert report["status"] == {"ok": ok, "unreadable": self.num_bad, "failed": self.num_failed}, report["errors"]
        exits = load_bundle(self.shop.bundle).cascade().exits
        rows = [int(line.split()[0]) for line in self.macs_log.read_text().splitlines()]
        assert sum(rows) * exits[-1].macs + ok * exits[0].macs <= report["budget"]["asked_gflops"] * 1e9
        assert report["budget"]["spent_gflops"] <= report["budget"]["asked_gflops"]

    def finish(self, *overrides: str) -> None:
        """The same command goes on to the end."""
        self.wait(self.start(*overrides), 0)
        self.check()
