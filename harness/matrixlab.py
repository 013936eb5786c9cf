# SPDX-License-Identifier: GPL-2.0-only
"""Cells of a matrix, run in guests of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness import catalogue, lab, report, scenario
from harness.errors import HarnessError, StorageError
from harness.kernels import Kernel
from harness.lab import Lab
from harness.matrixdoc import MadeKernel
from harness.matrixplan import Cell
from harness.matrixrun import Prepared, Record


class LabRunner:
    """A :class:`harness.matrixrun.Runner` on a lab."""

    def __init__(self, made: Lab, *, workers: int, bundles: Path) -> None:
        self._lab = made
        self._workers = workers
        self._bundles = bundles
        self._broken: dict[tuple[str, str], HarnessError] = {}

    def prepare(self, cell: Cell) -> Prepared:
        kernel = self._kernel(cell)
        self._subject(cell)
        base = self._lab.base(cell.kernel, cell.profile, cell.lane)
        return Prepared(
            MadeKernel(
                # As the cell calls it, which may be the path of a kernel's file.
                name=cell.kernel,
                profile=cell.profile,
                release=kernel.release,
                version=kernel.version,
                compiler=kernel.compiler,
            ),
            base.accelerator.value,
        )

    def trials(self, cell: Cell, seeds: Iterator[int]) -> Iterator[Record]:
        subject = self._subject(cell)
        plans = tuple(scenario.load_scenario(scenario.find_scenario(plan)) for plan in cell.plans)
        ready = (self._lab.trial(subject, plans[seed % len(plans)], seed) for seed in seeds)
        for trial, result in lab.run_trials(
            ready, self._workers, stop=lambda result: cell.stops and bool(result.findings)
        ):
            path = catalogue.keep(self._lab, subject, trial, result, self._bundles)
            yield report.trial_record(result, path and report.shown_path(path))

    def discard(self, bundles: Iterable[str]) -> None:
        for bundle in bundles:
            # By its name: nothing outside of this run's folder is ever removed.
            shutil.rmtree(self._bundles / Path(bundle).name, ignore_errors=True)

    def _kernel(self, cell: Cell) -> Kernel:
        key = (cell.kernel, cell.profile)
        if key in self._broken:
            raise self._broken[key]
        try:
            return self._lab.kernel(*key)
        except StorageError:
            raise
        except HarnessError as error:
            # Minutes each time, and all of its cells would fail the same way.
            self._broken[key] = error
            raise

    def _subject(self, cell: Cell) -> lab.Subject:
        return self._lab.subject(cell.folder, cell.variant, cell.kernel, cell.profile, cell.lane)
