# SPDX-License-Identifier: GPL-2.0-only
"""A program as one C file, which shows on any machine what it shows here. Pure.

The file has the same actors with the same operations and none of the checks: what the kernel
says is what there is to see.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from harness.ops import OPS, Kind, Param, Value
from harness.program import (
    Actor,
    Choose,
    Loop,
    Node,
    Op,
    Program,
    check_alone,
    module_of_path,
    walk,
)

_PART: Final = re.compile(r"^/\* @(?P<names>[a-z_ ]+) \*/\n", re.MULTILINE)

#: Names of flags and choices → C, where it is not a prefix and the name in capitals.
_C_NAMES: Final = {
    ("open_flags", "path"): "O_PATH",
    ("whence_choice", ""): "SEEK_",
    ("socket_choice", "udp"): "SOCK_DGRAM",
    ("socket_choice", "raw"): "SOCK_RAW",
    ("type_choice", ""): "SOCK_",
    ("call_choice", ""): "CALL_",
    ("map_flags", ""): "MAP_",
    ("prot_flags", ""): "PROT_",
    ("open_flags", ""): "O_",
    ("poll_flags", ""): "POLL",
    ("signal_choice", ""): "SIG",
    ("umount_flags", "force"): "MNT_FORCE",
    ("umount_flags", "detach"): "MNT_DETACH",
    ("umount_flags", "expire"): "MNT_EXPIRE",
    ("umount_flags", "nofollow"): "UMOUNT_NOFOLLOW",
    ("mount_flags", "ro"): "MS_RDONLY",
    ("mount_flags", ""): "MS_",
    # include/uapi/linux/module.h; libc has no header with them.
    ("finit_flags", "ignore_modversions"): "1",
    ("finit_flags", "ignore_vermagic"): "2",
    ("delete_flags", ""): "O_",
    ("touch_choice", "read"): "false",
    ("touch_choice", "write"): "true",
}
#: Results that no system call has.
_PSEUDO: Final = ("SHORT", "SKIPPED", "EXIT")
#: Parameters that the C file does without.
_LEFT_OUT: Final = {("recv", "check"), ("recv", "min"), ("readdir", "has"), ("touch", "key")}


def write(program: Program, about: str, modules: Sequence[str] = ()) -> str:
    """Return the C file of a program.

    Args:
        about: what it shows, a line or more, for the comment at its beginning.
        modules: names of the modules' files that it loads.

    Raises:
        UsageError: it does what no program can: a task stopped at an instruction, a schedule, an
            allocation that fails.
    """
    check_alone(program)
    writer = _Writer(program)
    body = writer.text()
    parts = "".join(_parts(writer.used))
    files = " ".join(modules)
    head = (
        "/*\n"
        # What a title says may not end the comment.
        + "".join(f" * {line}".rstrip() + "\n" for line in about.replace("*/", "* /").splitlines())
        + " *\n"
        + " *\tcc -static -o reproducer reproducer.c\n"
        + f" *\t./reproducer FOLDER\t(as root; FOLDER has {files or 'no module'})\n"
        + " *\n * Look at what the kernel says, in dmesg or on the console; a race may need\n"
        + " * several runs, or another seed (SEED below).\n */\n"
    )
    return head + parts.strip() + "\n\n" + body


def _parts(used: set[str]) -> Iterator[str]:
    source = importlib.resources.files("harness").joinpath("templates/standalone.c").read_text()
    found = list(_PART.finditer(source))
    needs = {names[0]: names[1:] for names in (one["names"].split() for one in found)}
    wanted = {"base", "main"}
    left = [*used]
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            left += needs[name]
    ends = [*(one.start() for one in found[1:]), len(source)]
    for one, end in zip(found, ends, strict=True):
        if one["names"].split()[0] in wanted:
            yield source[one.end() : end]


@dataclass
class _Writer:
    program: Program

    def __post_init__(self) -> None:
        #: Parts of the file that what was written so far calls.
        self.used: set[str] = set()
        self.number = {actor.name: index for index, actor in enumerate(self.program.actors)}
        self.barriers: dict[Value, int] = {}
        for actor in self.program.actors:
            for number in {
                node.args[0]
                for _, node in walk(actor.body)
                if isinstance(node, Op) and node.name == "barrier"
            }:
                self.barriers[number] = self.barriers.get(number, 0) + 1

    def text(self) -> str:
        program = self.program
        out = [f"#define SEED\t{program.seed}ULL\n"]
        out += self._function("setup", self._body(program.setup, 1))
        for actor in program.actors:
            out += self._function(self._name(actor), self._turns(actor))
        out += self._function("teardown", self._body(program.teardown, 1))
        starts = [
            f"\tstart({index}, {self._name(actor)}, SEED, {actor.fifo});"
            for index, actor in enumerate(program.actors)
        ]
        out += [
            "int main(int argc, char **argv)",
            "{",
            "\tprepare(argc, argv);",
            "\tsetup();",
            *starts,
            f"\twait_for_all({len(program.actors)});",
            "\tteardown();",
            "\treturn 0;",
            "}",
        ]
        return "\n".join(out) + "\n"

    def _name(self, actor: Actor) -> str:
        return "actor_" + re.sub(r"\W", "_", actor.name)

    def _function(self, name: str, body: Sequence[str]) -> list[str]:
        declared = ["\tint result;", ""] if any("result = " in line for line in body) else []
        return [f"static void {name}(void)", "{", *declared, *body, "}", ""]

    def _turns(self, actor: Actor) -> list[str]:
        if actor.repeat == 1 and not actor.until:
            return self._body(actor.body, 1)
        conditions = [f"turn < {actor.repeat}"] if actor.repeat else []
        ends = [f"shared->done[{self.number[name]}]" for name in actor.until]
        if ends:
            conditions.append(f"!({' && '.join(ends)})")
        head = f"\tfor (unsigned int turn = 0; {' && '.join(conditions)}; turn++) {{"
        return [head, *self._body(actor.body, 2), "\t}"]

    def _body(self, nodes: Sequence[Node], depth: int) -> list[str]:
        """Return the statements of a list; what ends the list leaves it by ``break``."""
        tabs = "\t" * depth
        if not any(isinstance(node, Op) and node.stop_on for node in nodes):
            return [line for node in nodes for line in self._node(node, depth)]
        inner = [line for node in nodes for line in self._node(node, depth + 1)]
        return [f"{tabs}do {{", *inner, f"{tabs}}} while (0);"]

    def _node(self, node: Node, depth: int) -> list[str]:
        tabs = "\t" * depth
        match node:
            case Op():
                return self._op(node, depth)
            case Loop():
                variable = f"i{depth}"
                head = f"for (int {variable} = 0; {variable} < {node.count}; {variable}++) {{"
                return [tabs + head, *self._body(node.body, depth + 1), tabs + "}"]
            case Choose():
                self.used.add("choose")
                weights = ", ".join(str(branch.weight) for branch in node.branches)
                lines = [f"{tabs}switch (pick({weights}, LIST_END)) {{"]
                for number, branch in enumerate(node.branches):
                    lines.append(f"{tabs}case {number}:")
                    # A break of its own list must not be taken for the end of the case.
                    lines += self._body(branch.body, depth + 1)
                    lines.append(f"{tabs}\tbreak;")
                return [*lines, tabs + "}"]

    def _op(self, op: Op, depth: int) -> list[str]:
        tabs = "\t" * depth
        if op.name in ("survey", "survey_sockets"):
            return []
        self.used.add(op.name)
        if any(param.kind is Kind.SLOT for param in OPS[op.name].params):
            self.used.add("slots")
        call = self._call(op)
        expects = op.expect != ("any",)
        if not expects and not op.stop_on:
            return [f"{tabs}{call};"]
        lines = [f"{tabs}result = {call};"]
        if expects:
            known = self._results(op, op.expect)
            if op.retries:
                lines += [
                    f"{tabs}for (int left = {op.retries}; left && !is(result, {known}); left--) {{",
                    f"{tabs}\tpause_us(10000);",
                    f"{tabs}\tresult = {call};",
                    f"{tabs}}}",
                ]
            lines.append(f"{tabs}expect({_text(op.name)}, result, {known});")
        if op.stop_on:
            lines += [f"{tabs}if (is(result, {_results(op.stop_on)}))", f"{tabs}\tbreak;"]
        return lines

    def _results(self, op: Op, names: Sequence[str]) -> str:
        kinds = {param.kind for param in OPS[op.name].params}
        # Without a descriptor to work on it does nothing, and that is never wrong.
        more = ("SKIPPED",) if kinds & {Kind.SLOT, Kind.MAP} else ()
        return _results((*names, *more))

    def _call(self, op: Op) -> str:
        if op.name == "exec":
            program, rest = op.args
            assert isinstance(rest, tuple)
            words = ", ".join(_text(str(word)) for word in (program, *rest))
            return f"do_exec((char * const []){{ {words}, NULL }})"
        args = [
            self._arg(op, param, value)
            for param, value in zip(OPS[op.name].params, op.args, strict=True)
            if (op.name, param.name) not in _LEFT_OUT
        ]
        if op.name == "barrier":
            args.append(str(self.barriers.get(op.args[0], 1)))
        if op.name == "ioctl":
            args = [args[0], f"{args[1]}UL", f"{args[2]}UL", args[3]]
        return f"do_{op.name}({', '.join(args)})"

    def _arg(self, op: Op, param: Param, value: Value) -> str:
        match value:
            case None:
                return "-1"
            case int(number):
                return f"0{number:o}" if param.kind is Kind.MODE else str(number)
            case tuple(names):
                return " | ".join(_constant(param.table, name) for name in names) or "0"
            case str(text) if param.kind is Kind.ACTOR:
                return str(self.number[text])
            case str(text) if param.kind is Kind.CHOICE:
                return _constant(param.table, text)
            case str(text) if op.name == "delete_module" and param.name == "name":
                return _text(module_of_path(text))
            case str(text) if op.name == "finit_module" and param.name == "path":
                return f"in_folder({_text(text.rpartition('/')[2])})"
            case str(text):
                return _text(text)


def _results(names: Sequence[str]) -> str:
    known = ["0" if name == "ok" else name for name in names
             if name == "ok" or name.startswith("E") or name in _PSEUDO]  # fmt: skip
    return ", ".join([*dict.fromkeys(known), "LIST_END"])


def _constant(table: str, name: str) -> str:
    if (table, name) in _C_NAMES:
        return _C_NAMES[table, name]
    return f"{_C_NAMES[table, '']}{name.upper()}"


def _text(text: str) -> str:
    """Return a C string; octal, for hexadecimal has no end of its own."""
    encoded = text.encode()
    inner = "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte not in b'"\\?' else f"\\{byte:03o}"
        for byte in encoded
    )
    return f'"{inner}"'
