# SPDX-License-Identifier: GPL-2.0-only
"""A program as a script for the shell of busybox, or bash. Pure.

A shell is slower than the executor, knows success and failure but no errnos, and starts a
program for most of what it does: the script shows what needs no narrow window.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Final

from harness.errors import UsageError
from harness.ops import Value
from harness.program import Actor, Choose, Loop, Node, Op, Program, check_alone, module_of_path

#: Numbers of descriptors that every shell has; a slot is one of them.
_FIRST_FD: Final = 3
_SLOTS: Final = 7

_HEAD: Final = r"""
folder=${1:?folder with the modules}
run=$(mktemp -d) || exit 1
"""

#: Function → its text; only those that are called are written.
_FUNCTIONS: Final = {
    "pause": r"""
# Up to a random number of microseconds more than so many.
pause() {
	us=$(($1 + RANDOM * $2 / 32768))
	sleep "$(printf '%d.%06d' $((us / 1000000)) $((us % 1000000)))"
}
""",
    "again": r"""
# As often as it says, until it succeeds.
again() {
	left=$1
	shift
	until "$@"; do
		[ $((left -= 1)) -ge 0 ] || return 1
		sleep 0.01
	done
}
""",
    "done_with": r"""
# Whether all of them have come to their ends.
done_with() {
	for one; do
		[ -e "$run/done.$one" ] || return 1
	done
}
""",
    "unmount_all": r"""
# All that is mounted there, the last one first.
unmount_all() {
	while at=$(grep -E "^[^ ]+ $1(/[^ ]*)? " /proc/mounts | tail -n 1 | cut -d ' ' -f 2) &&
			[ "$at" ]; do
		umount "$2" "$at" || return 1
	done
}
""",
}


def write(program: Program, about: str, modules: Sequence[str] = ()) -> str:
    """Return the script of a program.

    Args:
        about: what it shows, a line or more, for the comment at its beginning.
        modules: names of the modules' files that it loads.

    Raises:
        UsageError: it does what no shell can; says what.
    """
    check_alone(program)
    body = _Writer(program).text()
    files = " ".join(modules) or "no module"
    head = "\n".join(f"# {line}".rstrip() for line in about.splitlines())
    functions = "".join(text for name, text in _FUNCTIONS.items() if f"{name} " in body)
    return (
        f"#!/bin/sh\n{head}\n#\n"
        f"#\tsh reproducer.sh FOLDER\t(as root, with busybox or bash; FOLDER has {files})\n"
        "#\n# Look at what the kernel says, in dmesg or on the console; a race may need several\n"
        f"# runs.\n{_HEAD}{functions}\n{body}"
    )


class _Writer:
    def __init__(self, program: Program) -> None:
        self.program = program

    def text(self) -> str:
        program = self.program
        out = self._function("setup", self._body(program.setup, 1))
        for actor in program.actors:
            if actor.fifo or actor.kind == "thread":
                what = "real-time priority" if actor.fifo else "thread"
                raise self._refusal(f"{actor.name} is a {what}")
            out += self._function(_function_of(actor.name), self._turns(actor))
        out += self._function("teardown", self._body(program.teardown, 1))
        out.append("setup")
        for actor in program.actors:
            out += [
                f'( until [ -e "$run/go" ]; do :; done; {_function_of(actor.name)};'
                f' : > "$run/done.{actor.name}" ) &',
                f'echo $! > "$run/pid.{actor.name}"',
            ]
        out += [': > "$run/go"', "wait", "teardown", 'rm -rf "$run"']
        return "\n".join(out) + "\n"

    def _refusal(self, why: str) -> UsageError:
        return UsageError(
            f"program {self.program.name}: {why}, and no shell can do that",
            hint="`--as c` writes a program that can",
        )

    def _function(self, name: str, body: Sequence[str]) -> list[str]:
        # A function may not be empty.
        return [f"{name}() {{", *(body or ["\t:"]), "}", ""]

    def _turns(self, actor: Actor) -> list[str]:
        if actor.repeat == 1 and not actor.until:
            return self._body(actor.body, 1)
        conditions = [f'[ "$turn" -lt {actor.repeat} ]'] if actor.repeat else []
        if actor.until:
            conditions.append(f"! done_with {' '.join(actor.until)}")
        inner = self._body(actor.body, 2)
        return ["\tturn=0", f"\twhile {' && '.join(conditions)}; do",
                "\t\tturn=$((turn + 1))", *inner, "\tdone"]  # fmt: skip

    def _body(self, nodes: Sequence[Node], depth: int) -> list[str]:
        """Return the commands of a list; what ends the list leaves it by ``break``."""
        tabs = "\t" * depth
        if not any(isinstance(node, Op) and node.stop_on for node in nodes):
            return [line for node in nodes for line in self._node(node, depth)]
        inner = [line for node in nodes for line in self._node(node, depth + 1)]
        return [f"{tabs}while :; do", *inner, f"{tabs}\tbreak", f"{tabs}done"]

    def _node(self, node: Node, depth: int) -> list[str]:
        tabs = "\t" * depth
        match node:
            case Op():
                return self._op(node, tabs)
            case Loop():
                name = f"i{depth}"
                return [f"{tabs}{name}=0", f'{tabs}while [ "${name}" -lt {node.count} ]; do',
                        f"{tabs}\t{name}=$(({name} + 1))", *self._body(node.body, depth + 1),
                        f"{tabs}done"]  # fmt: skip
            case Choose():
                total = sum(branch.weight for branch in node.branches)
                lines, low = [f"{tabs}pick=$((RANDOM % {total}))"], 0
                for number, branch in enumerate(node.branches):
                    low += branch.weight
                    word = "elif" if number else "if"
                    lines.append(f'{tabs}{word} [ "$pick" -lt {low} ]; then')
                    lines += self._body(branch.body, depth + 1) or [f"{tabs}\t:"]
                return [*lines, f"{tabs}fi"]

    def _op(self, op: Op, tabs: str) -> list[str]:
        if op.name not in _FORMS:
            raise self._refusal(f"{op.place} is {op.name}")
        try:
            command = _FORMS[op.name](*op.args)
        except _CannotError as error:
            raise self._refusal(f"{op.place} is {op.name} {error}") from None
        if not command:
            return []
        if op.retries and op.expect != ("any",):
            command = f"again {op.retries} {command}"
        ends = [name for name in op.stop_on if name != "ok"]
        if not ends:
            return [tabs + command]
        # Which errno it was, a shell does not learn.
        return [f"{tabs}{command} || break"]


class _CannotError(Exception):
    """Some of what an operation can do a shell cannot."""


def _function_of(name: str) -> str:
    return "actor_" + re.sub(r"\W", "_", name)


def _word(value: Value) -> str:
    return shlex.quote(str(value))


def _fd(slot: Value) -> int:
    if not isinstance(slot, int) or slot >= _SLOTS:
        raise _CannotError(f"of slot {slot}: a shell has {_SLOTS}")
    return _FIRST_FD + slot


def _names(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _open(slot: Value, path: Value, flags: Value, mode: Value) -> str:
    known = set(_names(flags))
    # A shell has no word for these; what becomes of the file is the same, if it can be opened.
    known -= {"nonblock", "directory", "sync", "nofollow", "excl"}
    sign = {
        frozenset({"rdonly"}): "<",
        frozenset({"wronly"}): ">>",
        frozenset({"rdwr"}): "<>",
        frozenset({"rdwr", "creat"}): "<>",
        frozenset({"wronly", "creat"}): "<>",
        frozenset({"wronly", "creat", "trunc"}): ">",
        frozenset({"wronly", "creat", "append"}): ">>",
    }.get(frozenset(known))
    if sign is None:
        raise _CannotError(f"with {','.join(_names(flags))}")
    # Without `command` a file that cannot be opened would be the shell's end.
    return f"command exec {_fd(slot)}{sign}{_word(path)}"


def _dd(slot: Value, count: Value, at: Value, write: bool) -> str:
    ends = f">&{_fd(slot)} </dev/zero" if write else f"<&{_fd(slot)} >/dev/null"
    how = "conv=notrunc " if write else ""
    transfer = f"dd bs={count} count=1 {how}{ends}"
    if not at:
        return f"{transfer} 2>/dev/null"
    move = f"dd bs={at} {'seek' if write else 'skip'}=1 count=0 {how}{ends}"
    return f"sh -c {shlex.quote(f'{move}; {transfer}')} 2>/dev/null"


def _load(path: Value, params: Value, flags: Value) -> str:
    if flags:
        raise _CannotError(f"with {','.join(_names(flags))}")
    name = _word(str(path).rpartition("/")[2])
    return " ".join(['insmod "$folder"/' + name, *(_word(one) for one in shlex.split(str(params)))])


def _mount(source: Value, target: Value, fstype: Value, flags: Value, data: Value) -> str:
    options = ",".join([*_names(flags), *([str(data)] if data else [])])
    given = f"-o {_word(options)} " if options else ""
    return f"mount -t {_word(fstype)} {given}{_word(source)} {_word(target)}"


def _umount_flag(flags: Value) -> str:
    given = _names(flags)
    if set(given) - {"force", "detach"} or len(given) > 1:
        raise _CannotError(f"with {','.join(given)}")
    return {(): "", ("force",): "-f", ("detach",): "-l"}[given]


def _umount(target: Value, flags: Value) -> str:
    return " ".join(filter(None, ["umount", _umount_flag(flags), _word(target)]))


def _umount_all(under: Value, flags: Value) -> str:
    return f"unmount_all {_word(under)} {_umount_flag(flags) or '--'}"


def _write_file(path: Value, data: Value) -> str:
    text = "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and chr(byte) not in "\\%'" else f"\\{byte:03o}"
        for byte in str(data).encode()
    )
    # In a shell of its own: what cannot be opened must not end this one.
    return f"sh -c {shlex.quote(f'printf {shlex.quote(text)} > {_word(path)}')}"


def _exec(program: Value, args: Value) -> str:
    return " ".join(_word(one) for one in (program, *_names(args)))


def _kill(actor: Value, signal: Value) -> str:
    return f'kill -{signal} "$(cat "$run"/pid.{_word(actor)})" 2>/dev/null'


def _await(path: Value, line: Value, timeout_ms: Value) -> str:
    assert isinstance(timeout_ms, int)
    return f"again {timeout_ms // 10} grep -qxF {_word(line)} {_word(path)}"


#: Operation → its command; an empty one for what leaves no trace.
_FORMS: Final[dict[str, Callable[..., str]]] = {
    "open": _open,
    "close": lambda slot: f"exec {_fd(slot)}<&-",
    "read": lambda slot, count, check, least: _dd(slot, count, 0, write=False),
    "write": lambda slot, count, key: _dd(slot, count, 0, write=True),
    "pread": lambda slot, at, count, check, least: _dd(slot, count, at, write=False),
    "pread_hole": lambda slot, at, count: _dd(slot, count, at, write=False),
    "pwrite": lambda slot, at, count, key: _dd(slot, count, at, write=True),
    "readdir": lambda slot, has: f"ls /proc/self/fd/{_fd(slot)}/ >/dev/null",
    "stat": lambda path: f"ls -d {_word(path)} >/dev/null",
    "mkdir": lambda path, mode: f"mkdir -m {mode:o} {_word(path)}",
    "rmdir": lambda path: f"rmdir {_word(path)}",
    "unlink": lambda path: f"rm {_word(path)}",
    "rename": lambda old, new: f"mv {_word(old)} {_word(new)}",
    "chdir": lambda path: f"cd {_word(path)}",
    "mount": _mount,
    "umount": _umount,
    "umount_all": _umount_all,
    "sync": lambda: "sync",
    "fsync": lambda slot: "sync",
    "write_file": _write_file,
    "read_file": lambda path, equals: f"cat {_word(path)} >/dev/null",
    "exec": _exec,
    "kill": _kill,
    "sleep": lambda us, jitter_us: f"pause {us} {jitter_us}",
    "delay": lambda spins: "",
    "yield": lambda: "",
    "survey": lambda name: "",
    "survey_sockets": lambda name, family, protocols: "",
    "await_line": _await,
    "finit_module": _load,
    "delete_module": lambda name, flags: f"rmmod {_word(module_of_path(str(name)))}",
    "ifup": lambda interface: f"ip link set {_word(interface)} up",
    "ifdown": lambda interface: f"ip link set {_word(interface)} down",
}
