# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from harness import archive, kernels, proc, store
from harness.archive import Archive, Package
from harness.deadline import Deadline
from harness.errors import CommandError, ExitStatus, InfrastructureError

SHOWN = """\
Package: linux-headers-amd64
Version: 6.1.9-1
Depends: linux-headers-6.1.0-9-amd64 (= 6.1.9-1), gcc-12 | gcc, libc6:amd64 (>= 2.3)
Size: 12
SHA256: ab
"""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What apt's programs say, by the last word but options; one that says nothing fails."""
    said = {
        "$(LABEL)|$(REPO_URI)": "Debian|http://mirror/debian\n",
        "Acquire": 'Acquire::http::Proxy "http://proxy";\n',
    }

    def run(argv: list[str], **options: object) -> proc.Completed:
        text = next((said[word] for word in reversed(argv) if word in said), None)
        if text is None:
            raise CommandError(f"`{argv[0]}` failed", status=100, evidence="E: no such host")
        return proc.Completed(tuple(argv), 0, text.encode(), b"")

    monkeypatch.setattr(archive.proc, "run", run)
    return said


def soon() -> Deadline:
    return Deadline.after(60)


def test_archive_that_cannot_be_reached_says_that_what_is_built_works(
    tmp_path: Path, said: dict[str, str]
) -> None:
    with pytest.raises(InfrastructureError, match="cannot be asked for bookworm, sid") as caught:
        Archive(tmp_path, ["bookworm", "sid"]).update(soon())
    assert "no such host" in caught.value.evidence
    assert "`harness kernels`" in (caught.value.hint or "")
    assert caught.value.exit_status is ExitStatus.HARNESS


def test_suites_are_asked_for_at_the_mirrors_of_the_system(
    tmp_path: Path, said: dict[str, str]
) -> None:
    said["update"] = ""
    Archive(tmp_path, ["bookworm", "bookworm-security"]).update(soon())
    lines = (tmp_path / "etc/sources.list").read_text().splitlines()
    assert [line.split()[2:] for line in lines] == [
        ["http://mirror/debian", "bookworm", "main"],
        ["http://mirror/debian-security/", "bookworm-security", "main"],
    ]
    assert "proxy" in (tmp_path / "etc/parts/acquire.conf").read_text()


def test_package_and_what_it_depends_on(tmp_path: Path, said: dict[str, str]) -> None:
    said["linux-headers-amd64"] = said["linux-headers-amd64=6.1.9-1"] = SHOWN
    asked = Archive(tmp_path, ["bookworm"])
    package = asked.resolve("linux-headers-amd64", soon())
    assert package == Package("linux-headers-amd64", "6.1.9-1", "ab", 12)
    assert asked.depends(package, soon()) == ("linux-headers-6.1.0-9-amd64", "gcc-12", "libc6")


def test_package_that_vanished(tmp_path: Path, said: dict[str, str]) -> None:
    asked = Archive(tmp_path, ["bookworm"])
    with pytest.raises(InfrastructureError, match="package gone: not in bookworm"):
        asked.resolve("gone", soon())
    with pytest.raises(InfrastructureError, match=r"package gone 1: cannot be fetched") as caught:
        asked.fetch(Package("gone", "1", "", 1), tmp_path, soon())
    assert "--update" in (caught.value.hint or "")


def test_kernel_from_an_archive_that_cannot_be_reached(
    tmp_path: Path, said: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "compiler_version", lambda program="gcc": "gcc 12")
    cache = store.Store.open(tmp_path)
    with pytest.raises(InfrastructureError, match="cannot be asked for bookworm"):
        kernels.build_kernel(cache, kernels.load_recipe("6.1"))
    assert not (tmp_path / "resolved").exists()


def test_names_of_packages(tmp_path: Path, said: dict[str, str]) -> None:
    said["pkgnames"] = "b-dkms\na-dkms\ndkms\nlibc6\n"
    assert Archive(tmp_path, ["sid"]).names("-dkms", soon()) == ("a-dkms", "b-dkms")
