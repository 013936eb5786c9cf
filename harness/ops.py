# SPDX-License-Identifier: GPL-2.0-only
"""The operations that a program can hold: names, parameters, limits.

Pure data and the conversion of single values. ``images/executor/optable.c``
has the same table for the guest's side; ``executor tables`` prints it and a
test compares the two.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

#: Bytes of program text that the executor takes.
MAX_PROGRAM_BYTES: Final = 131072
MAX_ACTORS: Final = 64
#: Ops and control blocks of a whole program.
MAX_NODES: Final = 4096
#: Nesting of loops and choices.
MAX_DEPTH: Final = 16
#: Words of an op's open end (argv, names).
MAX_REST: Final = 24
MAX_SLOTS: Final = 16
MAX_MAPS: Final = 4
MAX_BARRIERS: Final = 16
#: Bytes of one read, write or map.
MAX_IO_BYTES: Final = 65536
#: Different modules that one program loads or unloads.
MAX_MODULES: Final = 8
#: Roles that a schedule ranks: actors, and the kernel's.
MAX_RANKS: Final = 72
#: Demotions and starvations of a schedule.
MAX_STEPS: Final = 32
MIN_SLICE_US: Final = 200
#: Ops of a program in which an allocation fails.
MAX_FAILS: Final = 512
#: Which allocation of an op that may be, at most.
MAX_FAIL_NTH: Final = 1_000_000_000
#: Turns of a loop, and every plain number.
MAX_NUMBER: Final = 1_000_000_000
MAX_WEIGHT: Final = 1_000_000
MAX_RETRIES: Final = 1000
#: Highest real-time priority of an actor; the agent runs above it.
MAX_FIFO: Final = 90
#: Microseconds of guest time: one hour.
MAX_BOUND_US: Final = 3_600_000_000
#: Microseconds that a guest rests at its end: one minute.
MAX_SETTLE_US: Final = 60_000_000
#: Bytes of an actor's name, as the executor keeps it.
MAX_NAME_BYTES: Final = 63
_MAX_U64: Final = 2**64 - 1
_MAX_I64: Final = 2**63 - 1

#: One converted parameter: a number, a text, names of flags, words, or no key.
Value = int | str | tuple[str, ...] | None

#: Flag and choice tables, in the executor's order.
TABLES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "open_flags": (
            "rdonly", "wronly", "rdwr", "creat", "excl", "trunc", "append", "nonblock",
            "directory", "path", "sync", "nofollow",
        ),
        "whence_choice": ("set", "cur", "end"),
        "prot_flags": ("read", "write", "exec"),
        "map_flags": ("shared", "private", "populate"),
        "touch_choice": ("read", "write"),
        "poll_flags": ("in", "out", "pri"),
        "mount_flags": (
            "ro", "nosuid", "nodev", "noexec", "remount", "bind", "move", "silent",
        ),
        "umount_flags": ("force", "detach", "expire", "nofollow"),
        "finit_flags": ("ignore_modversions", "ignore_vermagic"),
        "delete_flags": ("nonblock", "trunc"),
        "socket_choice": ("udp", "raw"),
        "type_choice": ("stream", "dgram", "raw", "rdm", "seqpacket", "dccp"),
        "call_choice": (
            "bind", "connect", "listen", "accept", "send", "sendto", "recvfrom",
            "getsockopt", "setsockopt", "getsockname", "getpeername", "shutdown",
        ),
        "signal_choice": ("HUP", "INT", "KILL", "USR1", "TERM", "STOP", "CONT"),
    }
)  # fmt: skip

#: What an op can answer besides an errno; see enum result in executor.h.
PSEUDO_RESULTS: Final = ("SHORT", "SIGBUS", "SIGSEGV", "EXIT", "SIGNAL", "SKIPPED")

_ERRNO_NAMES: Final = """
EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT
ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG
ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY
ELOOP ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT EBADE EBADR
EXFULL ENOANO EBADRQC EBADSLT EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE
ENOLINK EADV ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG
ELIBACC ELIBBAD ELIBSCN ELIBMAX ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK
EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP
EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET
ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT
ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL
EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED
EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON
"""
#: Linux's errno names (include/uapi/asm-generic/errno-base.h and errno.h).
ERRNOS: Final = tuple(_ERRNO_NAMES.split())
_ALIASES: Final = {"EWOULDBLOCK": "EAGAIN", "EDEADLOCK": "EDEADLK", "ENOTSUP": "EOPNOTSUPP"}
#: All that `expect` and `stop_on` can name, in the executor's order.
RESULTS: Final = ("ok", *ERRNOS, *PSEUDO_RESULTS)


class Kind(enum.Enum):
    """What a parameter's word looks like; the executor's name is the value."""

    SLOT = "slot"
    MAP = "map"
    COUNT = "count"
    NUMBER = "number"
    OFFSET = "offset"
    U64 = "u64"
    KEY = "key"
    MODE = "mode"
    BARRIER = "barrier"
    PATH = "path"
    TEXT = "text"
    ACTOR = "actor"
    FLAGS = "flags"
    CHOICE = "choice"
    #: The op's open end: any number of words.
    REST = "..."


#: Lowest and highest value of the kinds that are numbers.
RANGES: Final[Mapping[Kind, tuple[int, int]]] = MappingProxyType(
    {
        Kind.SLOT: (0, MAX_SLOTS - 1),
        Kind.MAP: (0, MAX_MAPS - 1),
        Kind.BARRIER: (0, MAX_BARRIERS - 1),
        Kind.COUNT: (1, MAX_IO_BYTES),
        Kind.NUMBER: (0, MAX_NUMBER),
        Kind.OFFSET: (-_MAX_I64, _MAX_I64),
        Kind.U64: (0, _MAX_U64),
        Kind.KEY: (0, _MAX_U64),
        Kind.MODE: (0, 0o777),
    }
)


#: Kinds whose word is a number.
NUMERIC: Final = frozenset(RANGES)


class _Required(enum.Enum):
    REQUIRED = enum.auto()


REQUIRED: Final = _Required.REQUIRED


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of an op."""

    name: str
    kind: Kind
    default: Value | _Required = REQUIRED
    #: Name of its flags or choices in :data:`TABLES`.
    table: str = ""


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One op: its parameters in the order of the program text."""

    name: str
    params: tuple[Param, ...] = ()
    #: Not for threads, which share what it changes.
    process_only: bool = False

    @property
    def short(self) -> Param | None:
        """The parameter that ``op: value`` means, where only one is required."""
        required = [param for param in self.params if param.default is REQUIRED]
        return required[0] if len(required) == 1 else None


def _flags(name: str, table: str, *default: str) -> Param:
    return Param(name, Kind.FLAGS, default, table)


_SLOT = Param("slot", Kind.SLOT)
_PATH = Param("path", Kind.PATH)
_COUNT = Param("count", Kind.COUNT)
_AT = Param("offset", Kind.NUMBER)
#: Writers: which pattern to write. Readers: which one to check for, if any.
_KEY = Param("key", Kind.KEY, 0)
_CHECK = Param("check", Kind.KEY, None)
#: Fewer bytes than this are lost data.
_LEAST = Param("min", Kind.NUMBER, 0)
_SPECS = (
    OpSpec("open", (_SLOT, _PATH, _flags("flags", "open_flags", "rdonly"),
                    Param("mode", Kind.MODE, 0o644))),
    OpSpec("close", (_SLOT,)),
    OpSpec("read", (_SLOT, _COUNT, _CHECK, _LEAST)),
    OpSpec("write", (_SLOT, _COUNT, _KEY)),
    OpSpec("pread", (_SLOT, _AT, _COUNT, _CHECK, _LEAST)),
    #: What was never written must read as zeros.
    OpSpec("pread_hole", (_SLOT, _AT, _COUNT)),
    OpSpec("pwrite", (_SLOT, _AT, _COUNT, _KEY)),
    OpSpec("lseek", (_SLOT, Param("offset", Kind.OFFSET),
                     Param("whence", Kind.CHOICE, "set", "whence_choice"))),
    OpSpec("fsync", (_SLOT,)),
    OpSpec("ftruncate", (_SLOT, Param("length", Kind.NUMBER))),
    OpSpec("ioctl", (_SLOT, Param("request", Kind.U64), Param("arg", Kind.U64, 0),
                     Param("data", Kind.TEXT, ""))),
    OpSpec("mmap", (Param("map", Kind.MAP), _SLOT, Param("length", Kind.COUNT),
                    _flags("prot", "prot_flags", "read"), _flags("flags", "map_flags", "shared"),
                    Param("offset", Kind.NUMBER, 0))),
    OpSpec("munmap", (Param("map", Kind.MAP),)),
    OpSpec("touch", (Param("map", Kind.MAP), Param("how", Kind.CHOICE, "read", "touch_choice"),
                     Param("key", Kind.KEY, None))),
    OpSpec("poll", (_SLOT, _flags("events", "poll_flags", "in"),
                    Param("timeout_ms", Kind.NUMBER, 0))),
    OpSpec("stat", (_PATH,)),
    OpSpec("readdir", (_SLOT, Param("has", Kind.REST, ()))),
    OpSpec("mkdir", (_PATH, Param("mode", Kind.MODE, 0o755))),
    OpSpec("rmdir", (_PATH,)),
    OpSpec("unlink", (_PATH,)),
    OpSpec("rename", (Param("from", Kind.PATH), Param("to", Kind.PATH))),
    OpSpec("chdir", (_PATH,), process_only=True),
    OpSpec("mount", (Param("source", Kind.TEXT, "none"), Param("target", Kind.PATH),
                     Param("fstype", Kind.TEXT), _flags("flags", "mount_flags"),
                     Param("data", Kind.TEXT, ""))),
    OpSpec("umount", (Param("target", Kind.PATH), _flags("flags", "umount_flags"))),
    #: Everything mounted at or below a path, the last one first.
    OpSpec("umount_all", (Param("under", Kind.PATH), _flags("flags", "umount_flags", "detach"))),
    OpSpec("sync"),
    OpSpec("write_file", (_PATH, Param("data", Kind.TEXT))),
    OpSpec("read_file", (_PATH, Param("equals", Kind.TEXT, ""))),
    OpSpec("exec", (Param("program", Kind.PATH), Param("args", Kind.REST, ()))),
    OpSpec("kill", (Param("actor", Kind.ACTOR),
                    Param("signal", Kind.CHOICE, "TERM", "signal_choice"))),
    #: us plus a seeded 0..jitter_us.
    OpSpec("sleep", (Param("us", Kind.NUMBER), Param("jitter_us", Kind.NUMBER, 0))),
    #: A seeded 0..spins turns of an empty loop.
    OpSpec("delay", (Param("spins", Kind.NUMBER),)),
    OpSpec("yield"),
    #: From here on only this processor runs the actor; EINVAL where there is none.
    OpSpec("pin", (Param("cpu", Kind.NUMBER),)),
    OpSpec("barrier", (Param("number", Kind.BARRIER),)),
    #: Until the file has this line; files that announce a change are waited for, not asked again.
    OpSpec("await_line", (_PATH, Param("line", Kind.TEXT), Param("timeout_ms", Kind.NUMBER, 0))),
    #: Over loopback: bound to a port (0: to none), or for every packet of an IP protocol.
    OpSpec("socket", (_SLOT, Param("type", Kind.CHOICE, "udp", "socket_choice"),
                      Param("number", Kind.NUMBER, 0))),
    #: One datagram to a port of 127.0.0.1; its pattern starts at offset 0.
    OpSpec("send", (_SLOT, Param("port", Kind.NUMBER, 0), _COUNT, _KEY)),
    OpSpec("recv", (_SLOT, _COUNT, _CHECK, _LEAST, Param("timeout_ms", Kind.NUMBER, 0))),
    #: Of any family, by its number (include/linux/socket.h); it does not wait for a peer.
    OpSpec("open_socket", (_SLOT, Param("family", Kind.NUMBER),
                           Param("type", Kind.CHOICE, "stream", "type_choice"),
                           Param("protocol", Kind.NUMBER, 0))),
    #: `data` is the value of an option or an address without its family, zeros after it;
    #: `number` an option, the bytes of an address (0: 16), a backlog or a direction.
    OpSpec("socket_call", (_SLOT, Param("call", Kind.CHOICE, table="call_choice"),
                           Param("level", Kind.NUMBER, 0), Param("number", Kind.NUMBER, 0),
                           Param("data", Kind.TEXT, ""))),
    OpSpec("finit_module", (_PATH, Param("params", Kind.TEXT, ""), _flags("flags", "finit_flags"))),
    OpSpec("delete_module", (Param("name", Kind.PATH),
                             _flags("flags", "delete_flags", "nonblock"))),
    #: Tell what has come since the guest was saved, under a name for that moment.
    OpSpec("survey", (Param("name", Kind.TEXT),), process_only=True),
    #: Tell which sockets can be opened, of one family or of all (0): each protocol below a number.
    OpSpec("survey_sockets", (Param("name", Kind.TEXT), Param("family", Kind.NUMBER, 0),
                              Param("protocols", Kind.NUMBER, 32)), process_only=True),
    #: A network interface, such as lo.
    OpSpec("ifup", (Param("interface", Kind.PATH),)),
    OpSpec("ifdown", (Param("interface", Kind.PATH),)),
)  # fmt: skip

#: Every op by its name.
OPS: Final[Mapping[str, OpSpec]] = MappingProxyType({spec.name: spec for spec in _SPECS})

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")


def parse_number(text: str, low: int, high: int) -> int:
    """Decimal text to an int in ``low..high``; ValueError says what is wrong."""
    # The length first: int() refuses thousands of digits with words of its own.
    if len(text) > 20 or not _NUMBER.fullmatch(text) or text == "-0":
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return check_number(int(text), low, high)


def check_number(value: int, low: int, high: int) -> int:
    """``value`` itself; ValueError when it is outside ``low..high``."""
    if not low <= value <= high:
        # repr of a huge int can itself be refused, hence the hexadecimal.
        shown = str(value) if value.bit_length() < 80 else f"{value:#x}"[:40] + "..."
        raise ValueError(f"{shown} is not in {low}..{high}")
    return value


def check_text(value: str) -> str:
    """``value`` itself; ValueError when it cannot be a C string in UTF-8."""
    if "\0" in value:
        raise ValueError("text with a NUL in it")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("text with half of a surrogate pair in it") from error
    return value


def canonical_result(name: str) -> str:
    """The name the executor uses for a result; ValueError when there is none."""
    name = _ALIASES.get(name, name)
    if name not in RESULTS:
        raise ValueError(f"no errno is called {name[:40]!r}")
    return name


def check_value(param: Param, value: Value) -> Value:
    """A converted value as it is; ValueError when ``param`` does not take it."""
    match param.kind, value:
        case Kind.KEY, None:
            return value
        case ((Kind.FLAGS | Kind.CHOICE | Kind.REST | Kind.PATH | Kind.TEXT | Kind.ACTOR), _):
            return _check_words(param, value)
        case kind, int() if not isinstance(value, bool):
            return check_number(value, *RANGES[kind])
    raise ValueError(f"{param.name} is a number, not {value!r:.40}")


def _check_words(param: Param, value: Value) -> Value:
    match param.kind, value:
        case Kind.FLAGS, tuple():
            for flag in value:
                if flag not in TABLES[param.table]:
                    raise ValueError(
                        f"{flag[:40]!r} is none of its flags: {', '.join(TABLES[param.table])}"
                    )
            if len(set(value)) != len(value):
                raise ValueError("a flag is named twice")
            return value
        case Kind.CHOICE, str():
            if value not in TABLES[param.table]:
                raise ValueError(
                    f"{value[:40]!r} is none of its choices: {', '.join(TABLES[param.table])}"
                )
            return value
        case Kind.REST, tuple():
            if len(value) > MAX_REST:
                raise ValueError(f"{len(value)} words, more than {MAX_REST}")
            return tuple(check_text(word) for word in value)
        case ((Kind.PATH | Kind.TEXT | Kind.ACTOR), str()):
            if param.kind is not Kind.TEXT and not value:
                raise ValueError(f"{param.name} is empty")
            return check_text(value)
    wanted = "a list of texts" if param.kind in (Kind.FLAGS, Kind.REST) else "a text"
    raise ValueError(f"{param.name} is {wanted}, not {value!r:.40}")
