# SPDX-License-Identifier: GPL-2.0-only
"""Matrix files: what they expand to, how they are cut into shards, what is refused."""

import contextlib
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import matrixplan, rates
from harness.errors import UsageError
from harness.machine import Lane
from harness.matrixplan import Budget, Cell, Matrix

SMALL = """
kernels: [6.1]
modules: [{module: poolfs, variants: [good, no-owner]}]
"""


def parsed(text: str, file: str = "m.yaml") -> Matrix:
    return matrixplan.parse_matrix(text, file)


def ids(matrix: Matrix) -> list[str]:
    return [cell.id for cell in matrix.cells]


def test_defaults() -> None:
    made = parsed(SMALL)
    assert ids(made) == ["poolfs/good@6.1-kasan-det", "poolfs/no-owner@6.1-kasan-det"]
    good, bad = made.cells
    assert good.seeds == range(8)
    assert "files-vs-rmmod" in good.scenarios
    assert (good.promised, good.stops, good.skip) == ((), False, None)
    # What a variant promises, and the scenario that shows it, come from its data file.
    assert bad.promised == ("unloaded while in use: delete_module succeeded",)
    assert bad.scenarios == ("held-vs-rmmod",)
    assert made.budget == Budget()


def test_cells_are_all_combinations_kernel_by_kernel() -> None:
    made = parsed(
        """
kernels: [5.10, 6.1, 6.12, 7.2]
lanes: [det, smp]
modules:
  - {module: poolfs, variants: [good]}
  - {module: knobs, variants: [good, no-release]}
"""
    )
    assert len(made.cells) == 4 * 2 * 3
    assert [cell.kernel for cell in made.cells[::6]] == ["5.10", "6.1", "6.12", "7.2"]
    assert len(set(ids(made))) == len(made.cells)


def test_numbers_are_taken_as_they_are_written() -> None:
    # To YAML 1.1, 5.10 is 5.1 and 1:33 is 93.
    (cell,) = parsed("kernels: [5.10]\nmodules: [lastret]\nseeds: 1:33\n").cells[:1]
    assert (cell.kernel, cell.seeds) == ("5.10", range(1, 33))


def test_exclude_takes_away_what_matches_in_all_its_fields() -> None:
    made = parsed(
        """
kernels: [5.10, 6.1]
modules: [{module: poolfs, variants: [good, no-owner]}]
exclude:
  - {kernel: 5.10, variant: [no-owner]}
"""
    )
    assert ids(made) == [
        "poolfs/good@5.10-kasan-det", "poolfs/good@6.1-kasan-det", "poolfs/no-owner@6.1-kasan-det"
    ]  # fmt: skip


def test_include_adds_cells_and_changes_those_that_are_there() -> None:
    made = parsed(
        SMALL
        + """
include:
  - {kernel: [6.1, 7.2], module: poolfs, variant: good, seeds: 0:100, scenarios: [cycle]}
  - {kernel: 6.1, module: knobs, variant: good, lane: smp}
"""
    )
    assert ids(made) == [
        "poolfs/good@6.1-kasan-det", "poolfs/no-owner@6.1-kasan-det", "knobs/good@6.1-kasan-smp",
        "poolfs/good@7.2-kasan-det",
    ]  # fmt: skip
    assert [len(cell.seeds) for cell in made.cells] == [100, 8, 8, 100]
    assert made.cells[0].scenarios == ("cycle",)


def test_scenarios_that_do_not_fit_a_module_are_left_out() -> None:
    made = parsed(
        """
kernels: [6.1]
modules: [{module: poolfs, variants: [good]}, {module: knobs, variants: [good]}]
scenarios: [files-vs-rmmod, cycle]
"""
    )
    assert [cell.scenarios for cell in made.cells] == [
        ("files-vs-rmmod", "cycle"), ("cycle",)
    ]  # fmt: skip


def test_cell_that_cannot_be_run_is_skipped_with_the_reason() -> None:
    made = parsed(
        """
kernels: [6.1]
modules:
  - {module: poolfs, variants: [good]}
  - {module: knobs, variants: [good], scenarios: [files-vs-rmmod]}
  - {module: hooknet, variants: [timer-not-synced]}
"""
    )
    assert [cell.skip for cell in made.cells] == [
        None,
        "no scenario fits: files-vs-rmmod is for a module with filesystem",
        "its mistake takes two processors: lane smp",
    ]
    assert [cell.weight for cell in made.cells] == [8, 0, 0]


def test_module_and_scenario_of_one_s_own_lie_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "Kbuild").write_text("obj-m := mine.o\n")
    (tmp_path / "mine" / "mine.c").write_text("")
    text = (matrixplan.scenario.SCENARIOS / "cycle.yaml").read_text()
    (tmp_path / "round.yaml").write_text(text)
    file = tmp_path / "m.yaml"
    file.write_text("kernels: [6.1]\nmodules: [./mine]\nscenarios: [round.yaml]\n")
    made = matrixplan.load_matrix(file)
    assert ids(made) == ["mine/good@6.1-kasan-det"]
    assert made.cells[0].scenarios == ("round",)
    before = made.digest
    elsewhere = tmp_path / "mine" / ".." / "m.yaml"
    assert matrixplan.load_matrix(elsewhere).digest == before
    (tmp_path / "mine" / "mine.c").write_text("int x;")
    assert matrixplan.load_matrix(file).digest != before
    (tmp_path / "mine" / "mine.c").write_text("")
    assert matrixplan.load_matrix(file).digest == before
    (tmp_path / "round.yaml").write_text(text + "# more\n")
    assert matrixplan.load_matrix(file).digest != before


def test_digest_is_of_what_is_run_and_not_of_how_it_is_written() -> None:
    assert parsed(SMALL).digest == parsed(SMALL + "about: x\nbudget: {time: 1h}\n").digest
    assert parsed(SMALL).digest != parsed(SMALL + "seeds: 0:9\n").digest
    assert parsed(SMALL).digest != parsed(SMALL + "until: finding\n").digest


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kernels: [6.1]\n", "m.yaml:1: modules: is missing"),
        (SMALL + "kernles: [6.1]\n", "m.yaml:4: kernles: unknown field; did you mean kernels"),
        ("[]", "m.yaml:1: a matrix is a mapping of fields"),
        ("kernels: [", "m.yaml:1: not YAML"),
        (SMALL + "profiles: kasan\n", "m.yaml:4: profiles: input should be a valid list"),
        ("kernels:\n- 6.1\n- 2.4\nmodules: [poolfs]", r"m.yaml:3: kernels\[1\]: kernel '2.4': "
         r"unknown; known: 5.10, 6.1"),
        ("kernels: [6.1, 6.1]\nmodules: [poolfs]", r"kernels\[1\]: '6.1' is there twice"),
        ("kernels: []\nmodules: [poolfs]", "m.yaml:1: kernels: list should have at least 1 item"),
        (SMALL + "profiles: [none]", r"m.yaml:4: profiles\[0\]: profile 'none': unknown; known: "
         ".*kasan"),
        (SMALL + "lanes: [fast]", r"m.yaml:4: lanes\[0\]: lane 'fast': unknown; known: det, smp"),
        (SMALL + "scenarios: [nothing]", r"scenarios\[0\]: no scenario is called 'nothing'"),
        (SMALL + "scenarios: [./nothing.yaml]", r"scenarios\[0\]: .*cannot be read"),
        (SMALL + "seeds: 8:8", "m.yaml:4: seeds: seeds '8:8': an empty range"),
        (SMALL + "until: never", "m.yaml:4: until: input should be 'end' or 'finding'"),
        ("kernels: [6.1]\nmodules:\n- poolsf", r"m.yaml:3: modules\[0\].module: module 'poolsf': "
         ".*did you mean poolfs"),
        ("kernels: [6.1]\nmodules: [[poolfs]]", r"modules\[0\]: should be a module's name, or"),
        ("kernels: [6.1]\nmodules: [poolfs, poolfs]", r"modules\[1\]: module poolfs is there"),
        ("kernels: [6.1]\nmodules:\n- {module: poolfs, variants: [good, bad]}",
         r"m.yaml:3: modules\[0\].variants\[1\]: variant 'bad' of poolfs: unknown; known: good"),
        (SMALL + "exclude: [{}]", r"exclude\[0\]: names nothing, and so would exclude everything"),
        (SMALL + "exclude: [{kernel: 7.2}]", r"exclude\[0\].kernel: kernel '7.2': not in this "
         "matrix; it has 6.1"),
        (SMALL + "exclude: [{kernel: {a: b}}]", r"exclude\[0\].kernel: should be a name or a list"),
        (SMALL + "exclude: [{kernel: 6.1}]", "m.yaml:4: exclude: nothing is left to run"),
        (SMALL + "include: [{kernel: 6.1}]", r"include\[0\].module: is missing"),
        (SMALL + "include: [{kernel: 2.4, module: poolfs}]", r"include\[0\].kernel\[0\]: kernel"),
        (SMALL + "include: [{kernel: 6.1, module: poolfs, seeds: x}]", r"include\[0\].seeds: "),
        (SMALL + "budget: {trials: 0}", "budget.trials: '0' is no number of trials from 1"),
        (SMALL + "budget: {trials: -4}", "budget.trials: '-4' is no number"),
        (SMALL + "budget: {time: 0s}", "budget.time: '0s' is not between 0 and 30 days"),
        (SMALL + "budget: {time: 90d}", "budget.time: '90d' is not between 0 and 30 days"),
        (SMALL + "budget: {time: soon}", "budget.time: 'soon' is no duration; write 90s, 20m"),
        (SMALL + "budget: {hours: 2}", "budget.hours: unknown field"),
        ("kernels: [6.1]\nmodules: [{module: hooknet, variants: [timer-not-synced]}]",
         "nothing to run: 1 cells, and none can be; hooknet/timer-not-synced@6.1-kasan-det: its "),
        (SMALL + "seeds: 0:1000000", "needs 2000000 trials of 2 cells; the limit is 1000000"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parsed(text)


def test_too_many_cells_are_counted_and_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrixplan, "MAX_CELLS", 3)
    with pytest.raises(UsageError, match=re.escape(
        "m.yaml:2: stands for 4 cells (1 kernels x 1 profiles x 2 lanes x 2 variants); "
        "the limit is 3"
    )):  # fmt: skip
        parsed(SMALL + "lanes: [det, smp]")
    with pytest.raises(UsageError, match="include: stands for 4 cells; the limit is 3"):
        parsed(SMALL + "include: [{kernel: 7.2, module: poolfs, variant: [good, no-owner]}]")


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read: No such file"):
        matrixplan.load_matrix(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"about: x\nkernels: \xe9\n")
    with pytest.raises(UsageError, match=r"latin\.yaml:2: is not UTF-8"):
        matrixplan.load_matrix(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("20m", 1200), ("1h30m", 5400), ("2.5h", 9000), ("2d", 172800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert matrixplan.parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1h30", "-1s", "1 h", "1e3", "9" * 20])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"no duration|not between"):
        matrixplan.parse_seconds(text)


def matrix(weights: list[int]) -> Matrix:
    return Matrix(
        "m.yaml",
        tuple(
            Cell(
                "m", "m", f"v{number}", "6.1", "kasan", Lane.DET, ("a",), range(max(weight, 1)),
                skip=None if weight else "x",
            )
            for number, weight in enumerate(weights)
        ),
    )  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 8))
def test_shards_are_all_of_it_once(weights: list[int], count: int) -> None:
    made = matrix(weights)
    found: list[str] = []
    for number in range(1, count + 1):
        # A shard for which nothing is left says so.
        with contextlib.suppress(UsageError):
            found += made.shard(number, count)
    assert sorted(found) == sorted(cell.id for cell in made.cells if cell.weight)


def test_shards_are_as_large_as_each_other_and_contiguous() -> None:
    made = matrix([8] * 12)
    parts = [made.shard(number, 4) for number in (1, 2, 3, 4)]
    assert [len(part) for part in parts] == [3, 3, 3, 3]
    assert parts[0] == {cell.id for cell in made.cells[:3]}


@pytest.mark.parametrize("text", ["", "2", "0/5", "6/5", "1/0", "a/b", "-1/5", "1/5/6"])
def test_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match="write 2/5 for the second of five"):
        matrixplan.parse_shard(text)


def test_shard_of_one_cell_in_two() -> None:
    with pytest.raises(UsageError, match=r"shard 1/2: no cell is left for it; m.yaml has 1 to run"):
        matrix([8]).shard(1, 2)


def test_kernels_that_the_matrix_has() -> None:
    made = parsed("kernels: [6.1, 7.2]\nmodules: [lastret]\n")
    only = made.only_kernels(["7.2"])
    assert only == {cell.id for cell in made.cells if cell.kernel == "7.2"}
    with pytest.raises(UsageError, match=r"kernel '5.10': not in m.yaml; it has 6.1, 7.2"):
        made.only_kernels(["7.2", "5.10"])


def test_claim_says_how_many_trials_each_cell_has(monkeypatch: pytest.MonkeyPatch) -> None:
    made = parsed(SMALL + "seeds: 5:6\n").claiming(rates.parse_claim("p<1%@95%"))
    assert {cell.seeds for cell in made.cells} == {range(5, 304)}
    assert all(cell.stops for cell in made.cells)
    monkeypatch.setattr(matrixplan, "MAX_TRIALS", 100)
    with pytest.raises(UsageError, match="a claim of p<5%@95% needs 118 trials of 2 cells"):
        parsed(SMALL).claiming(rates.parse_claim("p<5%@95%"))


ROOT = Path(__file__).parent.parent


def test_example_runs_the_whole_catalogue_on_four_kernels() -> None:
    made = matrixplan.load_matrix(ROOT / "examples" / "matrix.yaml")
    variants = {
        (family.name, variant)
        for family in matrixplan.families.all_families()
        for variant in family.variants
    }
    for kernel in ("5.10", "6.1", "6.12", "7.2"):
        cells = {(cell.module, cell.variant) for cell in made.cells if cell.kernel == kernel}
        assert cells == variants
    assert {cell.skip for cell in made.cells} == {
        None,
        "its mistake takes two processors: lane smp",
    }
    assert made.budget.seconds == 5 * 3600


def test_nightly_has_a_shard_for_each_kernel_of_the_example() -> None:
    made = matrixplan.load_matrix(ROOT / "examples" / "matrix.yaml")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    shards = workflow["jobs"]["shard"]["strategy"]["matrix"]["kernel"]
    assert shards == list(dict.fromkeys(cell.kernel for cell in made.cells))


def test_kernel_and_profile_that_do_not_go_together_are_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = matrixplan.kernels.load_recipe

    def load(name: str, profile: str = "kasan") -> object:
        if (name, profile) == ("5.10", "rt"):
            raise UsageError("profile rt: the kernel 5.10 has none")
        return real(name, "kasan" if profile == "rt" else profile)

    monkeypatch.setattr(matrixplan.kernels, "load_recipe", load)
    made = parsed("kernels: [5.10, 6.1]\nprofiles: [kasan, rt]\nmodules: [lastret]\n")
    assert {(cell.kernel, cell.profile): cell.skip for cell in made.cells} == {
        ("5.10", "kasan"): None, ("5.10", "rt"): "profile rt: the kernel 5.10 has none",
        ("6.1", "kasan"): None, ("6.1", "rt"): None,
    }  # fmt: skip
