# SPDX-License-Identifier: GPL-2.0-only
"""The command line's words for what :mod:`harness.ownsource` resolves."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import ownsource
from harness.kernelfiles import DEFAULT_KERNEL, DEFAULT_PROFILE
from harness.lab import Lab
from harness.ownsource import Own
from harness.patched import Patch


def add_arguments(call: argparse.ArgumentParser) -> None:
    """Add the arguments that say which module is meant, and in which kernel."""
    call.add_argument(
        "module", nargs="?",
        help="folder with a Kbuild file, FOLDER/NAME.o for one of several modules, or a .ko file",
    )  # fmt: skip
    call.add_argument(
        "--in-tree", metavar="PLACE", help="modules of the kernel's own source, such as fs/fat"
    )
    changes = call.add_mutually_exclusive_group()
    changes.add_argument(
        "--patch", metavar="FILE", type=Path, help="of --in-tree: with these changes"
    )
    changes.add_argument(
        "--revert", metavar="FILE", type=Path, help="of --in-tree: without these changes"
    )
    call.add_argument(
        "--dkms", metavar="PACKAGE", help="a Debian package for DKMS, by name or as a .deb file"
    )
    call.add_argument(
        "--main", metavar="NAME", help="which of several modules is the main one (default: chosen)"
    )
    call.add_argument(
        "--add-config", metavar="OPT[=y|m]", action="append", default=[],
        help="build the kernel with an option, and what that depends on; may be repeated",
    )  # fmt: skip
    call.add_argument(
        "--kernel", default=DEFAULT_KERNEL, help=f"name or file (default: {DEFAULT_KERNEL})"
    )
    call.add_argument(
        "--kernel-tree", metavar="FOLDER", type=Path,
        help="a kernel that was built in this folder, as it is",
    )  # fmt: skip
    call.add_argument(
        "--profile",
        help=f"default: {DEFAULT_PROFILE}; {ownsource.ROOMY_PROFILE} for a package, and for a "
        "place in the kernel's source that needs more",
    )


def from_arguments(made: Lab, arguments: argparse.Namespace) -> Own:
    """Return what the arguments name.

    Raises:
        UsageError: there is no such thing, or it cannot be had in this kernel.
    """
    return ownsource.resolve(
        made,
        arguments.module,
        in_tree=arguments.in_tree,
        dkms=arguments.dkms,
        kernel_tree=arguments.kernel_tree,
        add_config=arguments.add_config,
        kernel=arguments.kernel,
        profile=arguments.profile,
        main=arguments.main,
        patch=_patch(arguments),
    )


def _patch(arguments: argparse.Namespace) -> Patch | None:
    path = arguments.patch or arguments.revert
    return Patch(path, reverse=arguments.revert is not None) if path else None
