# SPDX-License-Identifier: GPL-2.0-only
"""Packages from Debian's archive, without root and without touching the system.

A private apt root (own sources, lists and cache; apt.conf(5), ``Dir::*``) lets
packages of any suite be fetched. Mirror and proxy are the system's own, taken
from apt's configuration; signatures are checked against Debian's archive
keyring.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import proc
from harness.deadline import Deadline
from harness.errors import CommandError, InfrastructureError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package as the archive has it."""

    name: str
    version: str
    sha256: str
    size_bytes: int


class Archive:
    """A private view of some suites of Debian's archive.

    Args:
        root: a folder of its own, kept between runs.
        suites: names such as ``bookworm`` or ``bookworm-security``.
    """

    def __init__(self, root: Path, suites: Sequence[str]) -> None:
        self.root = root
        self.suites = tuple(suites)

    def update(self, deadline: Deadline) -> None:
        """Fetch the lists of the suites.

        Raises:
            InfrastructureError: the archive cannot be reached or is not known.
        """
        for part in ("lists/partial", "cache/archives/partial", "etc/parts", "etc/prefs"):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        mirrors = _system_mirrors(deadline)
        lines = [
            f"deb [signed-by={KEYRING}] "
            f"{mirrors['security' if suite.endswith('-security') else 'main']} {suite} main\n"
            for suite in self.suites
        ]
        (self.root / "etc/sources.list").write_text("".join(lines))
        # Proxies and certificates are the system's; its hooks are not for us.
        acquire = proc.run(["apt-config", "dump", "Acquire"], deadline=deadline).stdout
        (self.root / "etc/parts/acquire.conf").write_bytes(acquire)
        try:
            self._apt("apt-get", "update", "-q", deadline=deadline)
        except CommandError as error:
            raise InfrastructureError(
                f"Debian's archive cannot be asked for {', '.join(self.suites)}",
                evidence=error.evidence,
                hint="what was built already works without it: `harness kernels` lists that",
            ) from error

    def resolve(self, name: str, deadline: Deadline) -> Package:
        """Return the newest version of a package.

        Raises:
            InfrastructureError: the suites do not have it.
        """
        try:
            shown = self._apt("apt-cache", "show", "--no-all-versions", name, deadline=deadline)
        except CommandError as error:
            raise InfrastructureError(
                f"package {name}: not in {', '.join(self.suites)}", evidence=error.evidence
            ) from error
        return _package(name, shown)

    def names(self, suffix: str, deadline: Deadline) -> tuple[str, ...]:
        """Return the names of the packages that end with something."""
        shown = self._apt("apt-cache", "pkgnames", deadline=deadline)
        return tuple(sorted(name for name in shown.split() if name.endswith(suffix)))

    def depends(self, package: Package, deadline: Deadline) -> tuple[str, ...]:
        """Return the names of the packages that one depends on, the first of alternatives."""
        shown = self._apt(
            "apt-cache", "show", f"{package.name}={package.version}", deadline=deadline
        )
        line = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
        words = line[1].split(", ") if line else []
        return tuple(re.split(r"[ :(|]", word)[0] for word in words)

    def fetch(self, package: Package, into: Path, deadline: Deadline) -> Path:
        """Download a package; return the ``.deb``.

        apt verifies size and hash against the signed lists.
        """
        try:
            self._apt(
                "apt-get", "download", "-q", f"{package.name}={package.version}",
                deadline=deadline, cwd=into,
            )  # fmt: skip
        except CommandError as error:
            raise InfrastructureError(
                f"package {package.name} {package.version}: cannot be fetched",
                evidence=error.evidence,
                hint="the archive keeps newest versions only:"
                " `harness kernels build --update` asks for that",
            ) from error
        return next(into.glob(f"{package.name}_*.deb"))

    def _apt(self, *argv: str, deadline: Deadline, cwd: Path | None = None) -> str:
        options = {
            "Dir::Etc::SourceList": self.root / "etc/sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::Etc::Parts": self.root / "etc/parts",
            "Dir::Etc::Main": "-",
            "Dir::Etc::Preferences": "-",
            "Dir::Etc::PreferencesParts": self.root / "etc/prefs",
            "Dir::State::Lists": self.root / "lists",
            "Dir::State::Status": self.root / "status",
            "Dir::Cache": self.root / "cache",
            "APT::Architecture": "amd64",
            "APT::Get::List-Cleanup": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Retries": "3",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
            # A mirror that answers nothing must not make `update` succeed.
            "APT::Update::Error-Mode": "any",
        }
        words = [argv[0]]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return proc.run([*words, *argv[1:]], deadline=deadline, cwd=cwd).stdout.decode()


def _package(name: str, shown: str) -> Package:
    fields = dict(re.findall(r"^(\w+): (.*)$", shown, re.MULTILINE))
    return Package(name, fields["Version"], fields["SHA256"], int(fields["Size"]))


def unpack(deb: Path, into: Path, deadline: Deadline) -> None:
    """Unpack a ``.deb`` into a folder; nothing is installed and no script runs."""
    proc.run(["dpkg-deb", "-x", str(deb), str(into)], deadline=deadline)


def _system_mirrors(deadline: Deadline) -> dict[str, str]:
    """Return the address of Debian's archive and of its security archive."""
    shown = proc.run(
        ["apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)"], deadline=deadline
    ).stdout.decode()
    found: dict[str, str] = {}
    for line in shown.splitlines():
        label, _, uri = line.partition("|")
        if label in ("Debian", "Debian-Security"):
            found.setdefault("security" if label == "Debian-Security" else "main", uri)
    if "main" not in found:
        raise InfrastructureError(
            "apt knows no mirror of Debian's archive", hint="run `apt-get update` once, as root"
        )
    # Every mirror network that serves the main archive has the security
    # archive beside it under this name.
    found.setdefault("security", re.sub(r"/debian/?$", "/debian-security/", found["main"]))
    return found
