# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness matrix`` does: says what it will take, runs it, says what was found."""

from __future__ import annotations

import argparse
import datetime
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import (
    commands,
    journal,
    kernels,
    matrixdask,
    matrixdoc,
    matrixplan,
    matrixrun,
    matrixtimes,
    rates,
    report,
    store,
)
from harness.errors import ExitStatus, UsageError
from harness.lab import Lab
from harness.matrixdoc import Document
from harness.matrixlab import LabRunner
from harness.matrixplan import Cell, Matrix
from harness.matrixrun import Record, Run, State
from harness.matrixtimes import Estimate, Work

_MERGE = "merge"


def matrix(arguments: argparse.Namespace) -> ExitStatus:
    """Run a matrix, or merge the results of its shards."""
    if arguments.file == _MERGE:
        return merge(arguments)
    if arguments.inputs:
        raise UsageError(
            f"{' '.join(arguments.inputs)}: one FILE at a time",
            hint="`harness matrix merge OUT.json SHARD.json...` merges results",
        )
    planned, own = plan(arguments)
    if arguments.dask:
        matrixdask.check_address(arguments.dask, planned)
    shown = Console(stderr=True, highlight=False, soft_wrap=True)
    cache = store.Store.open()
    if arguments.dry_run:
        for cell in planned.cells:
            if cell.id in own:
                what = cell.skip or f"{len(cell.seeds)} trials: {', '.join(cell.scenarios)}"
                print(f"{cell.id}  {what}")
        say_plan(shown, planned, own, State(), cache, arguments.workers)
        return ExitStatus.OK
    path = arguments.journal or _journal_path(arguments)
    header = {"digest": _digest(planned, own), "file": planned.file, "began": _now()}
    fresh = arguments.fresh or _is_finished(path)
    with journal.open_journal(path, header, fresh=fresh) as opened:
        state = _fold(opened)
        if opened.entries:
            trials = sum(len(known.records) for known in state.cells.values())
            shown.print(f"going on with {path}: {trials} trials are there", markup=False)
        say_plan(shown, planned, own, state, cache, arguments.workers)
        _go(arguments, planned, own, state, opened, cache)
        document = matrixrun.document(
            planned, own, state,
            began=str(opened.header["began"]), ended=_now(), processors=os.cpu_count() or 1,
        )  # fmt: skip
    # What is another shard's is in the document, and no news here.
    mine = [cell for cell in document.cells if cell.id in own]
    return _tell(arguments.json, document, mine, claim_lines(planned, own, document))


def merge(arguments: argparse.Namespace) -> ExitStatus:
    """Merge the documents of shards into one."""
    if len(arguments.inputs) < 2:
        raise UsageError("merge: needs an output and at least one document",
                         hint="`harness matrix merge OUT.json SHARD.json...`")  # fmt: skip
    out, *inputs = (Path(name) for name in arguments.inputs)
    merged = matrixdoc.merge({str(path): matrixdoc.load(path) for path in inputs})
    status = _tell(out, merged, merged.cells)
    absent = matrixdoc.missing(merged)
    if absent:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"{len(absent)} of {len(merged.cells)} cells are in none of these documents, "
            f"such as {absent[0].id}",
            markup=False,
        )
        return ExitStatus.HARNESS
    return status


def plan(arguments: argparse.Namespace) -> tuple[Matrix, frozenset[str]]:
    """Return the matrix, and the ids of the cells that are to be run here.

    Raises:
        UsageError: the file, or what was asked of it, cannot be.
    """
    planned = matrixplan.load_matrix(Path(arguments.file))
    if arguments.until:
        planned = planned.claiming(rates.parse_claim(arguments.until))
    own = frozenset(cell.id for cell in planned.cells)
    if arguments.kernel:
        own &= planned.only_kernels(arguments.kernel.split(","))
    if arguments.shard:
        own &= planned.shard(*matrixplan.parse_shard(arguments.shard))
    if not matrixrun.own_cells(planned, own):
        raise UsageError(
            f"{planned.file}: no cell of it can be run on what was asked for",
            hint="--dry-run lists the cells, and says why some cannot be run",
        )
    return planned, own


def _fold(opened: journal.Journal) -> State:
    try:
        return matrixrun.fold(opened.entries)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{opened.path}: an entry of it is malformed: {error!r:.200}",
            hint="--fresh begins anew",
        ) from error


def _digest(planned: Matrix, own: frozenset[str]) -> str:
    return store.digest({"matrix": planned.digest, "own": sorted(own)})


def _journal_path(arguments: argparse.Namespace) -> Path:
    words = [Path(arguments.file).stem, arguments.kernel, arguments.shard, arguments.until]
    name = "-".join("".join(c if c.isalnum() or c in ".," else "-" for c in word)
                    for word in words if word)  # fmt: skip
    return Path(arguments.bundles) / f"{name}.journal.jsonl"


def _is_finished(path: Path) -> bool:
    """Return whether a journal's run came to its end: asked for again, it is run again."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 100))
            return file.read().endswith(b'{"ev": "end"}\n')
    except FileNotFoundError:
        return False


def _go(
    arguments: argparse.Namespace,
    planned: Matrix,
    own: frozenset[str],
    state: State,
    opened: journal.Journal,
    cache: store.Store,
) -> None:
    with commands.show_progress() as line:
        cells = matrixrun.own_cells(planned, own)
        numbers = {cell.id: number for number, cell in enumerate(cells, 1)}
        total = sum(len(cell.seeds) for cell in cells) or 1

        def progress(cell: Cell, trials: int) -> None:
            done = sum(len(known.records) for known in state.cells.values())
            where = f"cell {numbers[cell.id]} of {len(cells)}: {cell.id}"
            line(f"{where} ({trials} of {len(cell.seeds)} trials)", done / total)

        def timed(cell: Cell, records: Sequence[Record], seconds: float) -> None:
            matrixtimes.learn(cache, cell, records, seconds, arguments.workers)

        runner = LabRunner(Lab(cache, line), workers=arguments.workers, bundles=arguments.bundles)
        run = Run(planned, own, state, opened, runner, progress, timed)
        try:
            if arguments.dask:
                matrixdask.run_cells(
                    arguments.dask, run, workers=arguments.workers, bundles=arguments.bundles
                )
            else:
                run.go()
        except (KeyboardInterrupt, SystemExit):
            count = sum(len(known.records) for known in state.cells.values())
            text = f"interrupted; {opened.path} has {count} trials: the same command goes on"
            line.console.print(text, highlight=False, markup=False, soft_wrap=True)
            raise


def say_plan(
    shown: Console,
    planned: Matrix,
    own: frozenset[str],
    state: State,
    cache: store.Store,
    workers: int,
) -> None:
    """Say what will be run and how long that takes."""
    cells = matrixrun.own_cells(planned, own)
    left = [_work(cell, state) for cell in cells if state.of(cell.id).state is None]
    unbuilt = _unbuilt(cells, cache)
    known = matrixtimes.load(cache)
    found = matrixtimes.estimate(
        left,
        known,
        boot_s=matrixtimes.boot_s(cache),
        kernels_s=sum(unbuilt.values()),
        workers=workers,
    )
    for text in plan_lines(planned, own, left, found, unbuilt, workers):
        shown.print(text, markup=False)


def _work(cell: Cell, state: State) -> Work:
    missing = list(state.of(cell.id).missing(cell))
    return Work(cell, len(missing), matrixtimes.LEAKS_SEED in missing)


def _unbuilt(cells: Sequence[Cell], cache: store.Store) -> dict[str, float]:
    """Return the kernels that have to be built first, and how long each takes."""
    recipes = {
        (cell.kernel, cell.profile): kernels.load_recipe(cell.kernel, cell.profile)
        for cell in cells
    }
    return {
        recipe.label: kernels.estimate_s(recipe)
        for recipe in recipes.values()
        if kernels.find_kernel(cache, recipe) is None
    }


def plan_lines(
    planned: Matrix,
    own: frozenset[str],
    left: Sequence[Work],
    found: Estimate,
    unbuilt: dict[str, float],
    workers: int,
) -> list[str]:
    """Return what is said before a run."""
    mine = [cell for cell in planned.cells if cell.id in own]
    number = len({(work.cell.kernel, work.cell.profile) for work in left})
    skipped = Counter(cell.skip for cell in mine if cell.skip)
    lines = [
        f"{planned.file}: {len(left)} cells with {found.trials} trials on {number} kernels"
        + (f", of {len(planned.cells)} cells" if len(mine) < len(planned.cells) else "")
    ]
    lines += [f"skipped: {count} cells: {why}" for why, count in skipped.items()]
    if planned.claim is not None:
        lines.append(f"{planned.claim} holds for a cell after {planned.claim.trials} trials")
    parts = [f"trials {duration(found.trials_s)}", f"preparing {duration(found.setup_s)}"]
    if unbuilt:
        parts.append(f"building {', '.join(sorted(unbuilt))} {duration(found.kernels_s)}")
    most = "at most " if any(work.cell.stops for work in left) else ""
    basis = f"times of {found.measured} cells known from before, of {found.guessed} guessed"
    total = f"{most}{duration(found.seconds)} with {workers} workers"
    lines.append(f"about {total}: {', '.join(parts)} ({basis})")
    budget = planned.budget
    if budget.seconds is not None and budget.seconds < found.seconds:
        lines.append(f"the budget of {duration(budget.seconds)} will end it before that")
    if budget.trials is not None and budget.trials < sum(cell.weight for cell in mine):
        lines.append(f"the budget of {budget.trials} trials will end it before all are run")
    return lines


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _tell(
    path: Path | None,
    document: Document,
    cells: Sequence[matrixdoc.Cell],
    remarks: Sequence[str] = (),
) -> ExitStatus:
    if path is not None:
        report.write_json(path, document.to_json())
    if str(path) != "-":
        out = commands.wide_console()
        out.print(cell_table(document, cells))
        for text in (*cell_lines(document), *bug_lines(document), *remarks):
            out.print(text, markup=False, highlight=False, soft_wrap=True)
    return document.status


def cell_table(document: Document, cells: Sequence[matrixdoc.Cell]) -> Table:
    """Return what was seen of each variant on each kernel, of some cells."""
    columns = _columns(document, cells)
    table = Table(title="trials with a finding", title_justify="left", expand=False)
    table.add_column("module", no_wrap=True)
    table.add_column("variant", no_wrap=True)
    for label in columns.values():
        table.add_column(label, no_wrap=True, justify="right")
    rows: dict[tuple[str, str], dict[tuple[str, str, str], matrixdoc.Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.module, cell.variant), {})[_place(cell)] = cell
    for (module, variant), row in rows.items():
        table.add_row(module, variant, *(_shown(row.get(place)) for place in columns))
    return table


def _place(cell: matrixdoc.Cell) -> tuple[str, str, str]:
    return (cell.kernel, cell.profile, cell.lane)


def _columns(
    document: Document, cells: Sequence[matrixdoc.Cell]
) -> dict[tuple[str, str, str], str]:
    """Return the table's columns with their heads, which say no more than tells them apart."""
    places = list(dict.fromkeys(_place(cell) for cell in cells))
    order = matrixdoc.kernel_order({place[0] for place in places}, document.kernels)
    places.sort(key=lambda place: (order[place[0]], place))
    several = [len({place[part] for place in places}) > 1 for part in range(3)]
    several[0] = True
    return {
        place: " ".join(word for word, wanted in zip(place, several, strict=True) if wanted)
        for place in places
    }


def _shown(cell: matrixdoc.Cell | None) -> Text:
    if cell is None:
        return Text("")
    match cell.state:
        case "error":
            return Text("error", style="bold red")
        case "skipped":
            return Text("skipped", style="dim")
        case "not-run" if not cell.trials:
            return Text("not run", style="dim")
    mark = {True: "", False: " NO", None: " ?"}[cell.agrees]
    style = {True: "green", False: "bold red", None: "yellow"}[cell.agrees]
    return Text(f"{cell.findings}/{cell.trials}{mark}", style=style)


def cell_lines(document: Document) -> list[str]:
    """Return what is to be said about cells beyond their numbers."""
    lines = []
    for cell in document.cells:
        if cell.state == "error":
            lines.append(f"error in {cell.id}: {cell.why}")
        elif cell.agrees is False:
            lines.append(f"not as it must be: {cell.id}: {cell.why or cell.title}")
    return lines


def bug_lines(document: Document) -> list[str]:
    """Return each distinct bug in a line."""
    if not document.bugs:
        return ["no bug was found"]
    lines = [f"{len(document.bugs)} distinct bugs (rates: {rates.METHOD}, "
             f"{rates.CONFIDENCE:.0%} confidence):"]  # fmt: skip
    for bug in document.bugs:
        where = bug.first_kernel
        if bug.last_kernel != bug.first_kernel:
            where += f" to {bug.last_kernel}"
        lines.append(
            f"{bug.module}: {bug.title}; kernels {where}; {bug.hits}/{bug.trials} "
            f"({bug.rate.low:.1%} to {bug.rate.high:.1%}); {bug.replay or 'no bundle'}"
            + (f"; with it: {', '.join(bug.also)}" if bug.also else "")
        )
    return lines


def claim_lines(planned: Matrix, own: frozenset[str], document: Document) -> list[str]:
    """Return for how many cells a claim holds."""
    if planned.claim is None:
        return []
    found = Counter(
        "refuted" if cell.findings else "holds" if cell.state == "done" else "open"
        for cell in document.cells
        if cell.id in own and cell.state != "skipped"
    )
    counts = ", ".join(f"{found[word]} {word}" for word in ("refuted", "open") if found[word])
    return [f"{planned.claim} holds for {found['holds']} cells" + (f"; {counts}" if counts else "")]
