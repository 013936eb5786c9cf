# SPDX-License-Identifier: GPL-2.0-only
"""SSH keys, made once on each machine and never shared.

They lie in the cache, and reach a guest with the payload of its template. A
guest that runs trials gets none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from harness import cpio, image, proc, store
from harness.deadline import Deadline

_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Keys:
    """This machine's keys."""

    folder: Path

    @property
    def user(self) -> Path:
        """The user's private key (RSA), OpenSSH format."""
        return self.folder / "user"

    @property
    def host_public(self) -> str:
        """The guests' public host key: type and base64 text."""
        return (self.folder / "host.pub").read_text().strip()

    def payload(self) -> dict[str, cpio.Entry]:
        """Return what a guest needs to serve SSH with them."""
        return {
            "etc/dropbear/host_key": cpio.Entry((self.folder / "host").read_bytes(), 0o600),
            "root/.ssh/authorized_keys": cpio.Entry((self.folder / "user.pub").read_bytes(), 0o600),
            "payload/setup": cpio.Entry(b"#!/bin/sh\nexec serve\n", 0o755),
        }


def machine_keys(cache: store.Store, guest_image: image.Image) -> Keys:
    """Return this machine's keys, making them the first time."""

    def make(into: Path) -> None:
        into.chmod(0o700)
        # Checking an RSA signature is the least work for an emulated processor: a
        # tenth of a second less to the first answer than with Ed25519.
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (into / "user").touch(mode=0o600)
        (into / "user").write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            )
        )
        public = private.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        (into / "user.pub").write_bytes(public + b" harness\n")
        # dropbear keeps its host key in a format of its own.
        argv, env = image.host_tool(guest_image, "dropbearkey")
        deadline = Deadline.after(_LIMIT_S)
        shown = proc.run(
            [*argv, "-t", "ed25519", "-f", str(into / "host")], deadline=deadline, env=env
        ).stdout.decode()
        line = next(line for line in shown.splitlines() if line.startswith("ssh-ed25519 "))
        (into / "host.pub").write_text(" ".join(line.split()[:2]) + "\n")

    return Keys(cache.build("keys", "machine-rsa", make, deadline=Deadline.after(2 * _LIMIT_S)))
