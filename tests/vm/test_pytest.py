# SPDX-License-Identifier: GPL-2.0-only
"""What a user of the plugin sees, in a project of his own."""

import pytest

from harness.lab import Lab

pytestmark = pytest.mark.vm


@pytest.fixture(autouse=True)
def same_cache(
    harness_lab: Lab, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytester gives its runs a home of their own; a kernel takes minutes to build."""
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(harness_lab.cache.root))


def test_finding_is_a_failure_with_title_stack_and_replay_command(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        def test_it(run_scenario):
            run_scenario("poolfs", "load-unload", seed=1, variant="leak-pool")
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*residue: slab cache poolfs_inode*", "*replay: harness replay *"])


def test_same_under_xdist(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("seed", [1, 2])
        def test_it(run_scenario, seed):
            run_scenario("poolfs", "held-vs-rmmod", seed=seed)
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2").assert_outcomes(passed=2)


def test_trouble_of_the_harness_is_an_error_and_no_failure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(run_scenario):
            run_scenario("no-such-module", "load-unload")
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*module 'no-such-module': no such folder*"])


def test_report_of_a_guest_is_a_failure_with_source_lines(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from harness.deadline import Deadline

        def test_it(guest, build):
            with guest.loaded(build("poolfs", "pool-busy")):
                guest.run(
                    "mkdir -p /mnt && mount -t poolfs none /mnt && touch /mnt/a && umount /mnt",
                    deadline=Deadline.after(120),
                )
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(
        [
            "*splat: BUG: Objects remaining in poolfs_inode on __kmem_cache_shutdown()*",
            "* kmem_cache_destroy+0x* mm/slab_common.c:*",
            "*+0x*poolfs*poolfs/*.c:*",
        ]
    )
    result.stdout.no_fnmatch_line("*/kernel/*/build/*")
