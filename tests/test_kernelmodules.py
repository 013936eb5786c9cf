# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from harness import kernelmodules, kofile
from harness.errors import BuildError
from harness.kernels import Kernel


def test_module_built_for_another_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kofile, "modinfo", lambda path: {"vermagic": "5.4.0 SMP mod_unload "})
    kernel = Kernel("6.1", "kasan", "6.1.1-kasan", "1", "gcc", "0", "k", tmp_path, tmp_path)
    with pytest.raises(BuildError, match=r"built for kernel 5\.4\.0, not for 6\.1\.1-kasan"):
        kernelmodules.load_ko(tmp_path / "x.ko", kernel)


def test_soft_need_is_found_by_its_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {
        "crc32c_generic": (("vermagic", "6.1-x SMP"), ("alias", "crypto-crc32c"),
                           ("alias", "crc32c")),
        "lib-crc": (("vermagic", "6.1-x SMP"), ("depends", "crypto_hash"),
                    ("softdep", "pre: crc32c built-in-one")),
    }  # fmt: skip
    kernel = Kernel("6.1", "x", "6.1-x", "1", "gcc", "0", "k", tmp_path, tmp_path)
    kernel.build.mkdir(exist_ok=True)
    for name in fields:
        (kernel.build / f"{name}.ko").write_bytes(b"")
    monkeypatch.setattr(kofile, "modinfo_fields", lambda path: fields[path.stem])
    info = kernelmodules.load_ko(kernel.build / "lib-crc.ko", kernel)
    # What is built in, or not there, is nothing to load.
    assert info["depends"] == "crypto_hash,crc32c_generic"
    assert kernelmodules.own_module(kernel, "crc32c_generic") == kernel.build / "crc32c_generic.ko"
