# SPDX-License-Identifier: GPL-2.0-only
"""Whether a bundle replays byte for byte from a cache that is empty and somewhere else.

``make elsewhere``: minutes, for a kernel is built. It makes bundles here, moves them, replays them
with another cache, compares the kernels of both, and exits with 1 where a byte is another one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import kernels, store
from harness.kernels import DEFAULT_KERNEL, DEFAULT_PROFILE

HARNESS = Path(sys.executable).with_name("harness")

#: Bundles of these are moved: what fails at unload, in a thread, and over several modules.
SAMPLES = ("poolfs:no-owner", "hooknet:packets-not-counted", "tmem:stale-superblock")

#: Longer than any cache's own place is likely to be.
FAR = Path("a/cache/in/another/place/with/a/name/that/is/much/longer")


def make_bundle(sample: str, folder: Path, kernel: str) -> Path:
    """Return the bundle of a variant's first finding in the ``det`` lane."""
    module, _, variant = sample.partition(":")
    bundles = folder / "made" / f"{module}-{variant}"
    subprocess.run(
        [HARNESS, "run", f"kmods/{module}", "--variant", variant, "--kernel", kernel,
         "--lane", "det", "--seeds", "1:60", "--until-finding", "--bundles", bundles],
        check=False,
    )  # fmt: skip
    found = sorted(bundles.glob("*/bundle.json"))
    if not found:
        raise SystemExit(f"{sample}: no finding in 60 trials")
    return Path(shutil.move(found[0].parent, folder / f"{module}-{variant}"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="*", type=Path, help="instead of some of the samples'")
    parser.add_argument("--kernel", default=DEFAULT_KERNEL)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--cache", type=Path, help="an empty folder (default: below $TMPDIR)")
    arguments = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory(prefix="elsewhere-") as name:
        folder = Path(name)
        bundles = arguments.bundles or [
            make_bundle(sample, folder, arguments.kernel) for sample in SAMPLES
        ]
        cache = (arguments.cache or folder / FAR).resolve()
        environment = {**os.environ, "KMOD_HARNESS_CACHE": str(cache)}
        for path in bundles:
            shown = subprocess.run(
                [HARNESS, "replay", path, "--times", str(arguments.times)],
                env=environment, stdout=subprocess.PIPE, text=True, check=False,
            ).stdout  # fmt: skip
            print(f"{path.name}\n{shown}", flush=True)
            wanted = f"{arguments.times} of {arguments.times}"
            good &= f"same console bytes: {wanted}" in shown
        if not arguments.bundles:
            good &= same_kernel(arguments.kernel, store.Store.open(), store.Store.open(cache))
    return 0 if good else 1


def same_kernel(name: str, *caches: store.Store) -> bool:
    """Say whether several caches have the same kernel, and its debug information."""
    recipe = kernels.load_recipe(name, DEFAULT_PROFILE)
    found = [kernels.find_kernel(cache, recipe) for cache in caches]
    digests = {
        tuple(store.digest_file(path) for path in (one.bzimage, one.vmlinux) if path)
        for one in found
        if one is not None
    }
    same = len(digests) == 1 and None not in found
    print(f"{name}-{DEFAULT_PROFILE}: {'the same' if same else 'NOT the same'} in both caches")
    return same


if __name__ == "__main__":
    sys.exit(main())
