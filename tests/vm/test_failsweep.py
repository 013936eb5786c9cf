# SPDX-License-Identifier: GPL-2.0-only
"""Failure sweeps, in guests."""

from pathlib import Path

import pytest

from harness import bundle, failstack, failsweep, failtext, families, lab, scenario, trial
from harness.failsites import FailSweep, Site, Verdict
from harness.lab import Lab, Subject
from harness.machine import Lane

pytestmark = pytest.mark.vm

#: Init takes two steps, and the second needs memory.
SOURCE = """\
// SPDX-License-Identifier: GPL-2.0-only
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>

static void *halfway_buffer;

static const struct file_operations halfway_operations = {
	.owner = THIS_MODULE,
};

static struct miscdevice halfway_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "halfway",
	.fops = &halfway_operations,
};

static int __init halfway_init(void)
{
	int err = misc_register(&halfway_device);

	if (err)
		return err;
	halfway_buffer = kmalloc(64, GFP_KERNEL);
	if (halfway_buffer)
		return 0;
	if (!FORGETS)
		misc_deregister(&halfway_device);
	return ENOMEM_OF_INIT;
}
module_init(halfway_init);

static void __exit halfway_exit(void)
{
	misc_deregister(&halfway_device);
	kfree(halfway_buffer);
}
module_exit(halfway_exit);

MODULE_DESCRIPTION("Takes two steps");
MODULE_LICENSE("GPL");
"""


def write_module(folder: Path, forgets: int = 0, answer: str = "-ENOMEM") -> str:
    folder.mkdir()
    (folder / "halfway.c").write_text(SOURCE)
    (folder / "Kbuild").write_text(
        f"obj-m := halfway.o\nccflags-y := -DFORGETS={forgets} '-DENOMEM_OF_INIT=({answer})'\n"
    )
    return str(folder)


def sweep_of(made: Lab, folder: str) -> tuple[Subject, FailSweep]:
    subject = made.subject(folder, families.GOOD, "6.1", "kasan", Lane.DET)
    workloads = [scenario.load_scenario(scenario.find_scenario("cycle"))]
    # What the kernel does of a load before init is the same for every module.
    return subject, failsweep.run(
        made, subject, workloads, workers=2, ops=["finit_module"], loader=False
    )


def site_of(sweep: FailSweep, function: str) -> Site:
    """The site of an allocation that a function of the module asks for by itself."""
    (site,) = [
        site for site in sweep.sites()
        if (asked := failstack.caller(site.stack)) and asked.function == function
    ]  # fmt: skip
    return site


def test_module_that_takes_its_steps_back_shows_nothing(harness_lab: Lab, tmp_path: Path) -> None:
    _, done = sweep_of(harness_lab, write_module(tmp_path / "halfway"))
    assert done.found == {}
    assert done.cut == []
    site = site_of(done, "halfway_init")
    assert (site.verdict, site.errnos) == (Verdict.FAILED, ("ENOMEM",))
    assert site.stack[-1].function.endswith("sys_finit_module")
    # The device's own allocations fail inside of init as well.
    inside = [site for site in done.sites() if failstack.in_module(site.stack, ["halfway"])]
    assert len(inside) > 5
    assert "failslab" in {site.kind for site in done.sites()}


def test_step_that_is_not_taken_back_is_found_where_it_fails(
    harness_lab: Lab, tmp_path: Path
) -> None:
    subject, done = sweep_of(harness_lab, write_module(tmp_path / "halfway", forgets=1))
    site = site_of(done, "halfway_init")
    assert site.verdict is Verdict.FINDING
    bad = [site.verdict for site in done.sites()].count(Verdict.FINDING)
    assert bad == 1
    # The list of devices goes on into the module that is gone, and the audit reads the list.
    title = site.findings[0]
    assert title.endswith(" in misc_seq_show")
    kernel = harness_lab.kernel("6.1", "kasan")
    places = failtext.read_places(done, kernel)
    frame = failstack.in_module(site.stack, ["halfway"])
    assert frame is not None
    line = SOURCE.splitlines().index("\thalfway_buffer = kmalloc(64, GFP_KERNEL);") + 1
    assert f"halfway.c:{line}" in places[frame][-1]
    found = done.found[title]
    assert found.failures is not None
    assert len(found.failures) == 1
    text = lab.decoded(found.result, kernel)
    path = bundle.write_bundle(tmp_path, found.trial, found.result, subject.archive, text)
    again, differences = harness_lab.replay_trial(bundle.load_bundle(path))
    assert differences == ()
    replay = trial.run_trial(again)
    assert replay.findings == found.result.findings
    assert replay.evidence.console == found.result.evidence.console
    assert replay.evidence.report == found.result.evidence.report


def test_failure_that_is_called_success_is_found(harness_lab: Lab, tmp_path: Path) -> None:
    """Init gives everything back and says 0; exit does so once more."""
    _, done = sweep_of(harness_lab, write_module(tmp_path / "halfway", answer="0"))
    site = site_of(done, "halfway_init")
    assert site.verdict is Verdict.FINDING
    assert site.errnos[0] == "ok"


def test_error_path_of_a_mount_is_walked(harness_lab: Lab) -> None:
    """The mount fails when it is known to the core, and is not made unknown."""
    family = families.find_family("tmem")
    subject = harness_lab.subject(
        str(family.folder), "mount-error-skips-invalidate", "6.1", "kasan", Lane.DET
    )
    workloads = [scenario.load_scenario(scenario.find_scenario("load-unload"))]
    done = failsweep.run(harness_lab, subject, workloads, workers=2, ops=["mount"])
    expect = family.variants["mount-error-skips-invalidate"].expect
    assert [title for title in done.found if title == expect[0].replace("\\", "")]
