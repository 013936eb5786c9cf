# SPDX-License-Identifier: GPL-2.0-only
"""A program: what the in-guest executor runs in one trial, as a value and as text.

The text is made for two readers. The executor (``images/executor/program.c``)
takes it strictly; a person finds it in a bundle and can follow it::

    kmod-program 1
    name files-vs-rmmod
    seed 7
    bound_us 5000000
    kmemleak 0
    setup
    op setup[0] ok,EEXIST - 0 mkdir /mnt 0755
    end
    actor user.0 process 0 actors[0] 8 -
    loop 3
    op actors[0].do[0].do[0] ok ENOENT 0 open 0 /mnt/f rdwr,creat 0644
    end
    choose
    branch 1
    end
    end
    fail 7
    op actors[0].do[2] ok,ENOMEM - 0 unlink /mnt/f
    end
    park PLAN user.* poolfs .text 1250 3 hold
    op park.do[0] any - 0 delete_module poolfs nonblock
    end
    teardown
    end

An ``op`` line is ``op PLACE EXPECT STOP_ON RETRIES NAME ARG...``, an ``actor``
line ``actor NAME KIND FIFO PLACE REPEAT UNTIL``. With a ``fail N`` before it, the
Nth allocation that an op asks the kernel for fails. A ``park`` line is ``park PLAN
ROLE MODULE SECTION OFFSET HITS hold|users``, and most programs have none; nor do
they have what may stand in its place, a schedule (``harness/schedules.py``), or
the line ``settle_us N`` before ``setup`` of those whose guest is looked through. Words
are separated by one space; a byte outside 0x21..0x7e and ``%`` is ``%XX``; the
empty word is ``%``; an empty list is ``-``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from harness import ops
from harness.errors import UsageError
from harness.ops import OPS, Kind, Param, Value
from harness.schedules import Schedule, read_schedule, schedule_lines

ActorKind = Literal["process", "thread"]
#: Held while the unloader's ops run, or while the other actors go on.
ParkMode = Literal["hold", "users"]

_VERSION: Final = "1"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Op:
    """One system call (or a few) with what it may answer."""

    #: Path in the scenario, such as ``actors[1].do[3]``.
    place: str
    name: str
    #: One value per parameter of ``OPS[name]``.
    args: tuple[Value, ...] = ()
    #: Names of allowed results; ``("any",)`` allows all.
    expect: tuple[str, ...] = ("ok",)
    #: Results after which the rest of the list is skipped.
    stop_on: tuple[str, ...] = ()
    #: How often to try again, 10 ms apart, while the answer is not allowed.
    retries: int = 0
    #: Which of its allocations fails, from 1 (``images/executor/fail.c``); 0: none.
    fail: int = 0


@dataclass(frozen=True, slots=True)
class Loop:
    """A list of ops run ``count`` times."""

    count: int
    body: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """One way of a choice, taken in proportion to its weight."""

    weight: int
    body: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choose:
    """One of several branches, picked by the actor's seeded generator."""

    branches: tuple[Branch, ...]


Node = Op | Loop | Choose


@dataclass(frozen=True, slots=True)
class Actor:
    """One task of the program."""

    name: str
    place: str
    body: tuple[Node, ...]
    kind: ActorKind = "process"
    #: Real-time priority, 0 for an ordinary task.
    fifo: int = 0
    #: Turns of the body; 0 means until the others are done.
    repeat: int = 1
    #: Names of the actors whose end ends this one.
    until: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Park:
    """Stop an actor at an instruction of a module (``images/executor/park.c``)."""

    #: The plan as a person wrote it, for the report.
    plan: str
    #: Pattern for names of actors, as in fnmatch(3).
    role: str
    module: str
    section: str
    #: Bytes from the section's start.
    offset: int
    #: Stops the actor that gets there for this time, from 1.
    hits: int
    mode: ParkMode
    #: What the unloader does meanwhile.
    body: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """Everything a trial runs. Equal programs make equal system calls."""

    name: str
    seed: int
    #: Microseconds of guest time for setup and actors together.
    bound_us: int
    actors: tuple[Actor, ...]
    kmemleak: bool = False
    setup: tuple[Node, ...] = ()
    teardown: tuple[Node, ...] = ()
    park: Park | None = None
    schedule: Schedule | None = None
    #: How long the guest rests at its end, microseconds, so that its memory can be
    #: looked through (``harness/memscan.py``) when all is freed; 0 where nobody looks.
    settle_us: int = 0

    def serialise(self) -> bytes:
        """The program text.

        :raises UsageError: A value does not fit the format or the executor.
        """
        try:
            text = "".join(line + "\n" for line in _program_lines(self)).encode("ascii")
        except ValueError as error:
            raise UsageError(f"program {self.name!r}: {error}") from error
        if len(text) > ops.MAX_PROGRAM_BYTES:
            raise UsageError(
                f"program {self.name!r}: {len(text)} bytes, more than the "
                f"{ops.MAX_PROGRAM_BYTES} that the executor takes"
            )
        return text

    @staticmethod
    def parse(text: bytes) -> Program:
        """The program that :meth:`serialise` wrote.

        :raises UsageError: The text is not exactly what it would have written.
        """
        reader = _Reader(text)
        try:
            program = reader.program()
            if program.serialise() != text:
                raise ValueError("not the form that serialise() writes")
        except UsageError as error:
            raise UsageError(f"program text: {error.message}") from error
        except ValueError as error:
            raise UsageError(f"program text, line {reader.number}: {error}") from error
        return program


def encode_word(value: str) -> str:
    """One word of program text."""
    if not value:
        return "%"
    return "".join(
        chr(byte) if 0x21 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}"
        for byte in ops.check_text(value).encode("utf-8")
    )


def decode_word(word: str) -> str:
    """What :func:`encode_word` made a word of; ValueError for anything else."""
    if word == "%":
        return ""
    if not re.fullmatch(r"(?:[!-$&-~]|%[0-9A-F]{2})+", word):
        raise ValueError(f"{word[:40]!r} is not a word")
    plain = re.sub(rb"%(..)", lambda code: bytes([int(code[1], 16)]), word.encode("ascii"))
    return ops.check_text(plain.decode("utf-8"))


def _list_word(names: tuple[str, ...]) -> str:
    return ",".join(names) if names else "-"


def _parse_list(word: str) -> tuple[str, ...]:
    return () if word == "-" else tuple(word.split(","))


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:70]!r} is no name: letters, digits and _ . - make one")
    return name


def _arg_words(param: Param, value: Value) -> list[str]:
    """A value as words of text; only an open end has more or less than one."""
    match ops.check_value(param, value):
        case None:
            return ["-"]
        case int(number) if param.kind is Kind.MODE:
            return [f"{number:04o}"]
        case int(number):
            return [str(number)]
        case str(text):
            return [encode_word(text)]
        case tuple(words):
            if param.kind is Kind.REST:
                return [encode_word(word) for word in words]
            return [_list_word(words)]


def _parse_arg(param: Param, word: str) -> Value:
    value: Value
    match param.kind:
        case Kind.FLAGS:
            value = _parse_list(word)
        case Kind.PATH | Kind.TEXT | Kind.ACTOR | Kind.CHOICE:
            value = decode_word(word)
        case Kind.KEY if word == "-":
            value = None
        case Kind.MODE:
            if not re.fullmatch(r"0[0-7]{3}", word):
                raise ValueError(f"{word[:40]!r} is not a mode such as 0644")
            value = int(word, 8)
        case _:
            value = ops.parse_number(word, -(2**63), 2**64)
    return ops.check_value(param, value)


def _results_word(names: tuple[str, ...]) -> str:
    if names != ("any",):
        for name in names:
            if ops.canonical_result(name) != name:
                raise ValueError(f"{name} has another name: {ops.canonical_result(name)}")
    return _list_word(names)


def _node_lines(nodes: tuple[Node, ...]) -> Iterator[str]:
    for node in nodes:
        match node:
            case Op():
                if node.fail:
                    yield f"fail {ops.check_number(node.fail, 1, ops.MAX_FAIL_NTH)}"
                yield _op_line(node)
            case Loop():
                yield f"loop {ops.check_number(node.count, 1, ops.MAX_NUMBER)}"
                yield from _node_lines(node.body)
                yield "end"
            case Choose():
                if not node.branches:
                    raise ValueError("a choice without branches")
                yield "choose"
                for branch in node.branches:
                    yield f"branch {ops.check_number(branch.weight, 1, ops.MAX_WEIGHT)}"
                    yield from _node_lines(branch.body)
                    yield "end"
                yield "end"


def _op_line(op: Op) -> str:
    spec = OPS.get(op.name)
    if spec is None:
        raise ValueError(f"no op is called {op.name[:40]!r}")
    if len(op.args) != len(spec.params):
        raise ValueError(f"{op.name} has {len(spec.params)} parameters, not {len(op.args)}")
    words = ["op", encode_word(op.place), _results_word(op.expect), _results_word(op.stop_on)]
    words += [str(ops.check_number(op.retries, 0, ops.MAX_RETRIES)), op.name]
    for param, value in zip(spec.params, op.args, strict=True):
        words += _arg_words(param, value)
    return " ".join(words)


def _actor_lines(actor: Actor) -> Iterator[str]:
    fifo = ops.check_number(actor.fifo, 0, ops.MAX_FIFO)
    repeat = ops.check_number(actor.repeat, 0, ops.MAX_NUMBER)
    if not repeat and not actor.until:
        raise ValueError(f"actor {actor.name} would never end")
    if actor.kind not in ("process", "thread"):
        raise ValueError(f"an actor is a process or a thread, not {actor.kind!r}")
    until = _list_word(tuple(_check_name(name) for name in actor.until))
    place = encode_word(actor.place)
    yield f"actor {_check_name(actor.name)} {actor.kind} {fifo} {place} {repeat} {until}"
    yield from _node_lines(actor.body)
    yield "end"


def _park_lines(park: Park) -> Iterator[str]:
    for name in (park.role, park.module, park.section):
        if not name:
            raise ValueError("a plan without a role, a module or a section")
    if park.mode not in get_args(ParkMode):
        raise ValueError(f"a plan says hold or users, not {park.mode!r}")
    words = [encode_word(word) for word in (park.plan, park.role, park.module, park.section)]
    words.append(str(ops.check_number(park.offset, 0, 2**63)))
    words.append(str(ops.check_number(park.hits, 1, 2**63)))
    yield " ".join(["park", *words, park.mode])
    yield from _node_lines(park.body)
    yield "end"


def _program_lines(program: Program) -> Iterator[str]:
    _check_whole(program)
    yield f"kmod-program {_VERSION}"
    yield f"name {encode_word(program.name)}"
    yield f"seed {ops.check_number(program.seed, 0, 2**64 - 1)}"
    yield f"bound_us {ops.check_number(program.bound_us, 1, ops.MAX_BOUND_US)}"
    yield f"kmemleak {int(program.kmemleak)}"
    if program.settle_us:
        yield f"settle_us {ops.check_number(program.settle_us, 1, ops.MAX_SETTLE_US)}"
    yield "setup"
    yield from _node_lines(program.setup)
    yield "end"
    for actor in program.actors:
        yield from _actor_lines(actor)
    if program.park is not None:
        yield from _park_lines(program.park)
    if program.schedule is not None:
        if program.park is not None:
            raise ValueError("a plan and a schedule")
        names = [actor.name for actor in program.actors]
        yield from schedule_lines(program.schedule, names, program.bound_us)
    yield "teardown"
    yield from _node_lines(program.teardown)
    yield "end"


def walk(nodes: tuple[Node, ...], depth: int = 0) -> Iterator[tuple[int, Node | Branch]]:
    """Every node below ``nodes`` with its depth, in the order of the text."""
    for node in nodes:
        yield depth, node
        match node:
            case Loop():
                yield from walk(node.body, depth + 1)
            case Choose():
                for branch in node.branches:
                    yield depth, branch
                    yield from walk(branch.body, depth + 1)


def node_names(program: Program) -> tuple[str, ...]:
    """The op of each node in the executor's numbering; control blocks have an empty name."""
    bodies = [program.setup, *(actor.body for actor in program.actors)]
    bodies += [program.park.body if program.park else (), program.teardown]
    return tuple(
        node.name if isinstance(node, Op) else "" for body in bodies for _, node in walk(body)
    )


def _check_whole(program: Program) -> None:
    """What no single line shows: names, sums and limits of the whole program."""
    names = [actor.name for actor in program.actors]
    if len(names) > ops.MAX_ACTORS:
        raise ValueError(f"{len(names)} actors, more than {ops.MAX_ACTORS}")
    if len(set(names)) != len(names):
        raise ValueError("two actors have the same name")
    for actor in program.actors:
        for other in actor.until:
            if other not in names or other == actor.name:
                raise ValueError(f"actor {actor.name} cannot wait for {other}")
    nodes = fails = 0
    modules: set[str] = set()
    parked = program.park.body if program.park else ()
    phases = ((None, program.setup), (None, parked), (None, program.teardown))
    for who, body in (*((actor, actor.body) for actor in program.actors), *phases):
        for depth, node in walk(body):
            nodes += 1
            if depth > ops.MAX_DEPTH:
                raise ValueError(f"nested deeper than {ops.MAX_DEPTH}")
            if isinstance(node, Op):
                _check_op_in(node, who, names)
                fails += bool(node.fail)
                if node.name in ("finit_module", "delete_module"):
                    modules.add(module_of_path(cast(str, node.args[0])))
    if nodes > ops.MAX_NODES:
        raise ValueError(f"{nodes} ops and blocks, more than {ops.MAX_NODES}")
    if fails > ops.MAX_FAILS:
        raise ValueError(f"{fails} ops that fail, more than {ops.MAX_FAILS}")
    if len(modules) > ops.MAX_MODULES:
        raise ValueError(f"{len(modules)} modules, more than {ops.MAX_MODULES}")


def _check_op_in(op: Op, actor: Actor | None, names: list[str]) -> None:
    if op.name == "kill" and op.args[0] not in names:
        raise ValueError(f"{op.place}: no actor is called {op.args[0]!r:.40}")
    if op.name == "barrier" and actor is None:
        raise ValueError(f"{op.place}: a barrier outside the actors")
    spec = OPS.get(op.name)
    if spec is not None and spec.process_only and actor is not None and actor.kind == "thread":
        raise ValueError(f"{op.place}: {op.name} is not for threads")


def check_alone(program: Program) -> None:
    """Refuse a program that nothing can run but the executor.

    Raises:
        UsageError: a task is stopped at an instruction, there is a schedule, or an allocation
            is made to fail.
    """
    why = ""
    if program.park is not None:
        why = f"its task is stopped at an instruction ({program.park.plan})"
    elif program.schedule is not None:
        why = f"its tasks have a schedule ({program.schedule.name})"
    elif any(isinstance(node, Op) and node.fail for body in bodies(program)
             for _, node in walk(body)):  # fmt: skip
        why = "an allocation is made to fail in it"
    if why:
        raise UsageError(
            f"program {program.name}: {why}, which no program can do by itself",
            hint="its bundle replays it",
        )


def module_of_path(path: str) -> str:
    """The name a module has in the kernel, from its file's: ``a-b.ko`` is ``a_b``."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


#: Where an op comes from that no scenario has asked for: see :func:`load_first`.
NEEDS: Final = "needs"


def bodies(program: Program) -> tuple[tuple[Node, ...], ...]:
    """What a program runs: its setup, each of its actors, its teardown."""
    return program.setup, *(actor.body for actor in program.actors), program.teardown


def load_first(program: Program, needs: Mapping[str, Sequence[str]]) -> Program:
    """The program with what its modules need and it does not load itself.

    That is loaded before the setup and unloaded after the teardown, so that a
    scenario which knows one module will do for one that stands on others.

    ``needs`` has for each module's file those that must be loaded before it, in order.
    """
    loaded = {
        cast(str, node.args[0])
        for body in bodies(program)
        for _, node in walk(body)
        if isinstance(node, Op) and node.name == "finit_module"
    }
    first = dict.fromkeys(
        needed for path in sorted(loaded) for needed in needs.get(path, ()) if needed not in loaded
    )
    load = OPS["finit_module"].params[1:]
    unload = OPS["delete_module"].params[1:]
    before = [
        Op(f"{NEEDS}[{index}]", "finit_module", (path, *_defaults(load)))
        for index, path in enumerate(first)
    ]
    # The last reference may be dropped a moment after its holder has gone.
    after = [
        Op(f"{NEEDS}[{index}]", "delete_module", (module_of_path(path), *_defaults(unload)),
           retries=20)
        for index, path in enumerate(first)
    ]  # fmt: skip
    return dataclasses.replace(
        program,
        setup=(*before, *program.setup),
        teardown=(*program.teardown, *reversed(after)),
    )


def _defaults(params: Iterable[Param]) -> Iterator[Value]:
    for param in params:
        assert param.default is not ops.REQUIRED
        yield param.default


class _Reader:
    """Recursive descent over the lines; ValueError on anything unexpected."""

    def __init__(self, text: bytes) -> None:
        self.number = 0
        try:
            self._lines = text.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise UsageError("program text: it is not ASCII") from error
        if self._lines.pop() != "":
            raise UsageError("program text: the last line has no newline")

    def _words(self) -> list[str]:
        if self.number == len(self._lines):
            raise ValueError("the text ends too early")
        self.number += 1
        return self._lines[self.number - 1].split(" ")

    def _keyed(self, key: str) -> str:
        words = self._words()
        if len(words) != 2 or words[0] != key:
            raise ValueError(f"line is not {key!r} and its value")
        return words[1]

    def program(self) -> Program:
        if self._keyed("kmod-program") != _VERSION:
            raise ValueError("unknown version")
        name = decode_word(self._keyed("name"))
        seed = ops.parse_number(self._keyed("seed"), 0, 2**64 - 1)
        bound_us = ops.parse_number(self._keyed("bound_us"), 1, ops.MAX_BOUND_US)
        kmemleak = ops.parse_number(self._keyed("kmemleak"), 0, 1)
        settle_us = 0
        if (words := self._words())[0] == "settle_us":
            if len(words) != 2:
                raise ValueError("line is not 'settle_us' and its value")
            settle_us = ops.parse_number(words[1], 1, ops.MAX_SETTLE_US)
            words = self._words()
        if words != ["setup"]:
            raise ValueError("no setup")
        setup = self._body(0)
        actors = []
        while (words := self._words())[0] == "actor":
            actors.append(self._actor(words))
        park = None
        if words[0] == "park":
            park = self._park(words)
            words = self._words()
        schedule = None
        if words[0] == "schedule":
            schedule = read_schedule(words, self._words)
            words = self._words()
        if words != ["teardown"]:
            raise ValueError("no teardown")
        teardown = self._body(0)
        if self.number != len(self._lines):
            raise ValueError("text after the end of the program")
        return Program(
            name, seed, bound_us, tuple(actors), bool(kmemleak), setup, teardown, park, schedule,
            settle_us,
        )  # fmt: skip

    def _actor(self, words: list[str]) -> Actor:
        if len(words) != 7 or words[2] not in ("process", "thread"):
            raise ValueError("bad actor line")
        return Actor(
            name=decode_word(words[1]),
            kind=cast(ActorKind, words[2]),
            fifo=ops.parse_number(words[3], 0, ops.MAX_FIFO),
            place=decode_word(words[4]),
            repeat=ops.parse_number(words[5], 0, ops.MAX_NUMBER),
            until=_parse_list(words[6]),
            body=self._body(0),
        )

    def _park(self, words: list[str]) -> Park:
        if len(words) != 8 or words[7] not in get_args(ParkMode):
            raise ValueError("bad park line")
        plan, role, module, section = (decode_word(word) for word in words[1:5])
        return Park(
            plan=plan,
            role=role,
            module=module,
            section=section,
            offset=ops.parse_number(words[5], 0, 2**63),
            hits=ops.parse_number(words[6], 1, 2**63),
            mode=cast(ParkMode, words[7]),
            body=self._body(0),
        )

    def _body(self, depth: int) -> tuple[Node, ...]:
        if depth > ops.MAX_DEPTH:
            raise ValueError(f"nested deeper than {ops.MAX_DEPTH}")
        nodes: list[Node] = []
        while (words := self._words()) != ["end"]:
            match words:
                case ["op", *rest]:
                    nodes.append(_parse_op(rest))
                case ["fail", number]:
                    nodes.append(self._failing_op(number))
                case ["loop", count]:
                    turns = ops.parse_number(count, 1, ops.MAX_NUMBER)
                    nodes.append(Loop(turns, self._body(depth + 1)))
                case ["choose"]:
                    nodes.append(self._choose(depth))
                case _:
                    raise ValueError(f"{words[0][:40]!r} in a list of ops")
        return tuple(nodes)

    def _failing_op(self, number: str) -> Op:
        nth = ops.parse_number(number, 1, ops.MAX_FAIL_NTH)
        match self._words():
            case ["op", *rest]:
                return dataclasses.replace(_parse_op(rest), fail=nth)
            case words:
                raise ValueError(f"'fail' before {words[0][:40]!r}")

    def _choose(self, depth: int) -> Choose:
        branches = []
        while (words := self._words()) != ["end"]:
            if len(words) != 2 or words[0] != "branch":
                raise ValueError("'choose' holds branches")
            weight = ops.parse_number(words[1], 1, ops.MAX_WEIGHT)
            branches.append(Branch(weight, self._body(depth + 1)))
        return Choose(tuple(branches))


def _parse_op(words: list[str]) -> Op:
    if len(words) < 5:
        raise ValueError("op line is too short")
    place, expect, stop_on, retries, name, *rest = words
    spec = OPS.get(name)
    if spec is None:
        raise ValueError(f"no op is called {name[:40]!r}")
    args: list[Value] = []
    for param in spec.params:
        if param.kind is Kind.REST:
            args.append(ops.check_value(param, tuple(decode_word(word) for word in rest)))
            rest = []
        elif not rest:
            raise ValueError(f"{name} has too few words")
        else:
            args.append(_parse_arg(param, rest.pop(0)))
    if rest:
        raise ValueError(f"{name} has too many words")
    return Op(
        place=decode_word(place),
        name=name,
        args=tuple(args),
        expect=_parse_list(expect),
        stop_on=_parse_list(stop_on),
        retries=ops.parse_number(retries, 0, ops.MAX_RETRIES),
    )
