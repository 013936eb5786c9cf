# SPDX-License-Identifier: GPL-2.0-only
"""What a person names, in guests: modules that were not written for this project."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import kernels, ownsource, scenario, uses, workloads
from harness.errors import BuildError
from harness.lab import Lab
from harness.machine import Lane
from harness.ownsource import Own
from harness.patched import Patch
from harness.surfaces import Kind, Surface
from harness.trial import TrialResult, run_trial
from harness.verdict import Verdict

pytestmark = pytest.mark.vm

CYCLE = scenario.load_scenario(scenario.find_scenario("cycle"))

BASE = """\
#include <linux/module.h>
#include <pair.h>

int pair_call(void)
{
	return PAIR;
}
EXPORT_SYMBOL_GPL(pair_call);
MODULE_LICENSE("GPL");
"""
USER = """\
#include <linux/module.h>
#include <pair.h>

static int __init pair_init(void)
{
	return pair_call() == PAIR ? 0 : -EINVAL;
}

static void __exit pair_exit(void)
{
}

module_init(pair_init);
module_exit(pair_exit);
MODULE_LICENSE("GPL");
"""
MAKEFILE = """\
ifneq ($(KERNELRELEASE),)
	obj-m := pair-user.o lib/
	ccflags-y := -I$(src)/include
else
all:
	$(MAKE) -C /lib/modules/$(shell uname -r)/build M=$(PWD) modules
endif
"""


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two modules in folders as people have them."""
    files = {
        "Makefile": MAKEFILE,
        "pair-user.c": USER,
        "include/pair.h": "#define PAIR 42\nint pair_call(void);\n",
        "lib/Makefile": "obj-m := pair_base.o\nccflags-y := -I$(src)/../include\n",
        "lib/pair_base.c": BASE,
    }
    for name, text in files.items():
        path = tmp_path / "pair" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pair"


def run(made: Lab, own: Own) -> TrialResult:
    subject = made.subject(own.target, "good", own.kernel, own.profile, Lane.DET)
    # Seed 0 looks for leaks, too.
    return run_trial(made.trial(subject, CYCLE, seed=0))


def loaded(result: TrialResult) -> set[str]:
    events = [json.loads(line) for line in result.evidence.report.splitlines()]
    return {event["module"] for event in events if event["ev"] == "loaded" and event["loaded"]}


def test_folder_of_two_modules(harness_lab: Lab, pair: Path) -> None:
    own = ownsource.resolve(harness_lab, str(pair))
    result = run(harness_lab, own)
    assert (result.findings, result.verdict) == ((), Verdict.PASS)
    assert loaded(result) == {"pair_user", "pair_base"}


def test_compiled_module_with_what_lies_beside_it(harness_lab: Lab, pair: Path) -> None:
    own = ownsource.resolve(harness_lab, str(pair))
    module = harness_lab.build(own.target, "good", own.kernel, own.profile)
    result = run(harness_lab, ownsource.resolve(harness_lab, str(module.ko)))
    assert (result.findings, result.verdict) == ((), Verdict.PASS)
    assert loaded(result) == {"pair_user", "pair_base"}


def test_option_that_the_kernel_lacks_is_named(harness_lab: Lab, pair: Path) -> None:
    text = USER.replace("pair_call()", "submit_bio_wait(0)")
    declared = "#include <pair.h>\nint submit_bio_wait(void *bio);"
    (pair / "pair-user.c").write_text(text.replace("#include <pair.h>", declared))
    own = ownsource.resolve(harness_lab, str(pair))
    with pytest.raises(BuildError, match=r"lacks: BLOCK \(for submit_bio_wait\)") as caught:
        harness_lab.build(own.target, "good", own.kernel, own.profile)
    assert "--add-config BLOCK=y" in str(caught.value.hint)


#: What the kernel of the profile `check` is made for.
IN_TREE = (
    "fs/fat", "fs/minix", "net/netfilter/nf_conntrack", "drivers/block/zram", "drivers/block/brd",
    "drivers/block/null_blk", "drivers/net/dummy",
)  # fmt: skip


def require_roomy(made: Lab) -> None:
    """Skip where the kernel of that profile is not built: it takes long."""
    recipe = kernels.load_recipe("6.1", ownsource.ROOMY_PROFILE)
    if kernels.find_kernel(made.cache, recipe) is None:
        pytest.skip(f"`harness kernels build 6.1 --profile {ownsource.ROOMY_PROFILE}` makes it")


@pytest.mark.parametrize("place", IN_TREE)
def test_modules_of_the_kernels_own_source(harness_lab: Lab, place: str) -> None:
    require_roomy(harness_lab)
    own = ownsource.resolve(harness_lab, in_tree=place)
    assert own.profile == ownsource.ROOMY_PROFILE
    result = run(harness_lab, own)
    assert (result.findings, result.verdict) == ((), Verdict.PASS)
    assert own.family.roles["main"] in loaded(result)


@pytest.mark.parametrize(("place", "name"), [("fs/minix", "minix"), ("fs/fat", "vfat")])
def test_filesystem_that_wants_a_disk_is_mounted(harness_lab: Lab, place: str, name: str) -> None:
    require_roomy(harness_lab)
    own = ownsource.resolve(harness_lab, in_tree=place)
    surface = Surface(Kind.DISK_FILESYSTEM, name)
    plan = workloads.held(workloads.NOTHING, surface)
    subject = harness_lab.subject(own.target, "good", own.kernel, own.profile, Lane.DET)
    result = run_trial(harness_lab.trial(subject, plan, seed=1))
    assert result.findings == ()
    events = [json.loads(line) for line in result.evidence.report.splitlines()]
    mounts = [event for event in events if event["ev"] == "errnos" and event["op"] == "mount"]
    assert [event["counts"] for event in mounts] == [{"ok": 1}]


HARMLESS = """\
--- a/fs/minix/inode.c
+++ b/fs/minix/inode.c
@@ -101,4 +101,5 @@ static void destroy_inodecache(void)
 \t */
 \trcu_barrier();
+\tcond_resched();
 \tkmem_cache_destroy(minix_inode_cachep);
 }
"""


@pytest.mark.parametrize("reverse", [False, True])
def test_fix_that_is_taken_back_is_missed(harness_lab: Lab, tmp_path: Path, reverse: bool) -> None:
    """Minix without the barrier of examples/reports, and with a change that says nothing."""
    require_roomy(harness_lab)
    examples = Path(__file__).parents[2] / "examples" / "reports"
    change = tmp_path / "change.patch"
    change.write_text(HARMLESS)
    patch = Patch(examples / "minix-barrier.patch", True) if reverse else Patch(change)
    own = ownsource.resolve(harness_lab, in_tree="fs/minix", patch=patch)
    group = uses.groups([Surface(Kind.DISK_FILESYSTEM, "minix")])
    # Whether a life ends within a grace period of its unmount is a matter of when a tick comes.
    plan = workloads.use(workloads.NOTHING, group, 1, turns=20)
    subject = harness_lab.subject(own.target, "good", own.kernel, own.profile, Lane.DET)
    result = run_trial(harness_lab.trial(subject, plan, seed=1))
    title = "BUG: Objects remaining in minix_inode_cache on __kmem_cache_shutdown()"
    assert (title in {finding.title for finding in result.findings}) is reverse
    assert bool(result.findings) is reverse
