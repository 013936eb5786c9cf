# SPDX-License-Identifier: GPL-2.0-only
"""Somebody who uses what a module exposes: surfaces to scenarios.

Each kind of surface has its own way of being held and of being used. Scenarios are
made as the YAML that a person would write (``docs/scenarios.md``), so that the same
reader checks them; what a seed may choose is chosen by the seed. Pure.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from harness import disks, scenario, sockets
from harness.ops import MAX_SLOTS
from harness.scenario import Scenario
from harness.surfaces import (
    BEFORE,
    FILES,
    LOADED,
    MADE,
    MADE_FOLDER,
    MOUNTED,
    SIGNS,
    SOCKETS,
    Kind,
    Surface,
    socket_arguments,
)

Step = dict[str, Any]

#: Files of one kind that one scenario uses, and that are held at a time.
MAX_FILES: Final = 12
#: Sockets of one family that one user takes.
MAX_SOCKETS: Final = 6
#: Requests that any device may be asked: FIONREAD, TCGETS, BLKGETSIZE64, BLKFLSBUF, HDIO_GETGEO.
_KNOWN_REQUESTS: Final = (0x541B, 0x5401, 0x80081272, 0x1261, 0x0301)
#: And any socket: SIOCINQ, SIOCOUTQ, SIOCGSTAMP (include/uapi/linux/sockios.h).
_SOCKET_REQUESTS: Final = (0x541B, 0x5411, 0x8906)
#: Levels of options that are none of a family's own: SOL_IP, SOL_RAW; and most families' own
#: (include/linux/socket.h).
_LEVELS: Final = (0, 255)
_FAMILY_LEVELS: Final = (256, 290)
#: What is written to files that take text. No large numbers: what asks for as much memory as it
#: is told to is no finding.
_TEXTS: Final = ("0\n", "1\n", "2\n", "-1\n", "on\n", "off\n", "\n", "x" * 40)
#: An address of an interface and of somebody beyond it, of those that are for tests (RFC 2544).
_ADDRESS: Final = "198.18.0.1"
_PEER: Final = "198.18.0.2"
#: Guest time in which somebody holds what must keep the module from going, microseconds.
_HELD_US: Final = 60_000
#: How long unload may be refused after the last release: so many times 10 ms.
_LAST_RELEASE: Final = 50
#: Lanes of what goes on for longer than most.
_LONG: Final = {"det": {"bound_us": 20_000_000}, "smp": {"bound_us": 60_000_000}}
#: Enough for so many lives with users, and for so many with nobody there.
_LONG_LIVES: Final = 3
_SHORT_LIVES: Final = 10
_REFUSED: Final = ["EAGAIN", "EBUSY"]
#: What a load or an unload may answer while others load and unload, too.
_LOAD_RACES: Final = ["ok", "EEXIST", "EAGAIN", "EBUSY"]
_UNLOAD_RACES: Final = ["ok", "EAGAIN", "EBUSY", "ENOENT"]


@dataclass(frozen=True, slots=True)
class Group:
    """Surfaces that one user takes together.

    A device, a filesystem, all sockets of a family, all files of a kind.
    """

    name: str
    surfaces: tuple[Surface, ...]

    @property
    def kind(self) -> Kind:
        return self.surfaces[0].kind


@dataclass(frozen=True, slots=True)
class Around:
    """What goes around every scenario of one module, from its ``harness.yaml``."""

    #: Of every load: ``name=value ...``.
    parameters: str = ""
    #: Other modules, loaded before everything in this order and unloaded at the end.
    load_first: tuple[str, ...] = ()
    #: Before the first load.
    setup: tuple[Step, ...] = ()
    #: After each load, as somebody who uses the module.
    use: tuple[Step, ...] = ()
    #: After a load with nobody there.
    holds: tuple[Step, ...] = ()
    #: Before each unload: the first stage of one that has two.
    before_unload: tuple[Step, ...] = ()
    #: After the last unload.
    teardown: tuple[Step, ...] = ()
    #: Op → results that are right besides those that the battery expects.
    fine: tuple[tuple[str, tuple[str, ...]], ...] = ()


#: A module that has no ``harness.yaml``.
NOTHING: Final = Around()


def groups(surfaces: Iterable[Surface]) -> tuple[Group, ...]:
    """Return what can be used, each as one user takes it."""
    found: list[Group] = []
    files: dict[Kind, list[Surface]] = {}
    families: dict[int, list[Surface]] = {}
    for surface in surfaces:
        if surface.kind in FILES:
            files.setdefault(surface.kind, []).append(surface)
        elif surface.kind is Kind.SOCKET:
            families.setdefault(socket_arguments(surface)[0], []).append(surface)
        elif surface.kind not in SIGNS and not _lacks_disk(surface):
            found.append(Group(surface.slug, (surface,)))
    for family, several in families.items():
        found.append(Group(f"sockets-{family}", tuple(several[:MAX_SOCKETS])))
    for kind, several in files.items():
        found.append(Group(f"{kind.value.split()[0]}-files", tuple(several[:MAX_FILES])))
    return tuple(found)


def _lacks_disk(surface: Surface) -> bool:
    return surface.kind is Kind.DISK_FILESYSTEM and surface.name not in disks.KNOWN


def is_mountable(surface: Surface) -> bool:
    """Return whether it is a filesystem that a workload can mount."""
    return surface.kind in (Kind.FILESYSTEM, Kind.DISK_FILESYSTEM) and not _lacks_disk(surface)


def shows_more(surface: Surface) -> bool:
    """Return whether somebody who uses it may bring what a load alone does not."""
    return is_mountable(surface) or surface.kind is Kind.CONFIGFS


def _with_surroundings(text: dict[str, Any], several: Sequence[Surface]) -> dict[str, Any]:
    """Return a scenario's fields with what its surfaces need around them: disks, for filesystems.

    Modules that depend on the main one go before it in the end: a user may have been interrupted.
    """
    names = [one.name for one in several if one.kind is Kind.DISK_FILESYSTEM]
    above = [_gone(one.name) for one in several if one.kind is Kind.DEPENDENT]
    if not names and not above:
        return text
    make = [disks.setup(name) for name in names]
    take = [disks.teardown(name) for name in names]
    last = text.get("teardown", [unload(retries=_LAST_RELEASE)])
    return {**text, "setup": [*make, *text.get("setup", [])], "teardown": [*above, *last, *take]}


def _mount(surface: Surface, target: str) -> Step:
    source = disks.device(surface.name) if surface.kind is Kind.DISK_FILESYSTEM else "none"
    return {"source": source, "target": target, "fstype": surface.name}


def not_used(surfaces: Iterable[Surface]) -> tuple[tuple[Surface, str], ...]:
    """Return the surfaces that no workload uses, each with the reason."""
    files: dict[Kind, int] = {}
    left: list[tuple[Surface, str]] = []
    opened = any(one.kind is Kind.SOCKET for one in surfaces)
    numbers = [one for one in surfaces if one.kind in (Kind.CHARACTER, Kind.BLOCK)]
    for surface in surfaces:
        if _lacks_disk(surface):
            left.append((surface, "needs a block device with such a filesystem on it"))
        elif surface.kind is Kind.PROTOCOL and not opened:
            left.append((surface, "no socket can be opened that could not be before"))
        elif surface.kind is Kind.NUMBER and not numbers:
            left.append((surface, "no node in /dev has it"))
        elif surface.kind in FILES:
            files[surface.kind] = files.get(surface.kind, 0) + 1
            if files[surface.kind] > MAX_FILES:
                left.append((surface, f"beyond the first {MAX_FILES} of its kind"))
    return tuple(left)


def make(name: str, text: dict[str, Any], around: Around = NOTHING) -> Scenario:
    """Return a scenario from its fields, with what goes around those of the module.

    Raises:
        ScenarioError: the steps of a ``harness.yaml`` are wrong.
    """
    lanes = text.pop("lanes", {"det": {"bound_us": 10_000_000}, "smp": {"bound_us": 30_000_000}})
    first = [{"finit_module": f"/payload/{name}.ko"} for name in around.load_first]
    last = [
        {"delete_module": name, "retries": _LAST_RELEASE} for name in reversed(around.load_first)
    ]
    whole = {
        "surfaces": ["module"],
        "lanes": lanes,
        "setup": [*first, *around.setup, *text.pop("setup", [])],
        **text,
        "teardown": [
            *text.pop("teardown", [unload(retries=_LAST_RELEASE)]),
            *around.teardown,
            *last,
        ],
    }
    for one in whole["actors"]:
        one["do"] = _with_first_stage(one["do"], around.before_unload)
    for key in ("setup", "teardown"):
        whole[key] = _with_first_stage(whole[key], around.before_unload)
    fine = dict(around.fine)
    for phase in (whole["setup"], whole["teardown"], *(one["do"] for one in whole["actors"])):
        _allow(phase, fine)
    return scenario.parse_scenario(yaml.safe_dump(whole, sort_keys=False, width=1000), name)


def _with_first_stage(steps: Sequence[Step], before: Sequence[Step]) -> list[Step]:
    """Return steps with others before each unload; where that may be refused, so may they."""
    found: list[Step] = []
    for step in steps:
        name = step.get("delete_module")
        if (name.get("name") if isinstance(name, dict) else name) == "${module}":
            refused = set(step.get("expect", ())) & set(_REFUSED)
            found += [{**one, "expect": "any"} if refused else dict(one) for one in before]
        found.append(step)
    return found


def _allow(steps: Sequence[Any], fine: dict[str, tuple[str, ...]]) -> None:
    for step in steps:
        if not isinstance(step, dict):
            continue
        for op in step.keys() & fine.keys():
            expect = step.get("expect", ["ok"])
            expect = [expect] if isinstance(expect, str) else expect
            if expect != ["any"]:
                step["expect"] = [*dict.fromkeys((*expect, *fine[op]))]
        _allow(step.get("do", []), fine)
        for branch in step.get("choose", []):
            _allow(branch.get("do", []), fine)


def load(around: Around, parameters: str | None = None, **fields: Any) -> Step:
    """Return the step that loads the module."""
    params = around.parameters if parameters is None else parameters
    return {"finit_module": {"path": "${ko}", "params": params}, **fields}


def _gone(name: str) -> Step:
    """Return the step that unloads another module, whoever else does."""
    return {"delete_module": name, "expect": ["ok", "ENOENT"], "retries": _LAST_RELEASE}


def unload(**fields: Any) -> Step:
    """Return the step that unloads it; that it is gone already is as good."""
    return {"delete_module": "${module}", "expect": ["ok", "ENOENT"], **fields}


def _any(op: str, value: Any = None, **fields: Any) -> Step:
    return {op: value, "expect": "any", **fields}


def survey(around: Around) -> Scenario:
    """Load, look, unload."""
    steps = [
        # What is there before is that of modules which it needs.
        {"survey": BEFORE},
        load(around),
        # Some things are made by work items that the load has queued.
        {"sleep": 50_000},
        {"survey": LOADED},
        *around.holds,
    ]
    return make("load", {"about": "Load, look, unload.", "actors": [_one("loader", steps)]}, around)


def survey_inside(around: Around, surface: Surface) -> Scenario:
    """Load, begin to use what shows more than a load does, look again."""
    if surface.kind is Kind.CONFIGFS:
        mark, actor, about = MADE, "maker", "What a folder in configfs holds."
    else:
        mark, actor, about = MOUNTED, "mounter", "What a mount brings."
    take, give, _ = _hold(surface, MADE_FOLDER)
    steps = [{"survey": BEFORE}, load(around), *take, {"survey": mark}, *give]
    text = {"about": about, "actors": [_one(actor, steps)]}
    return make(f"{mark}-{surface.slug}", _with_surroundings(text, [surface]), around)


def survey_sockets(around: Around, internet: Sequence[int]) -> Scenario:
    """Try which sockets can be opened, before a load and after it.

    Args:
        internet: families of which each IP protocol is tried.
    """

    def look(name: str) -> list[Step]:
        every = [{"survey_sockets": {"name": name, "family": family,
                                     "protocols": sockets.IP_PROTOCOLS}}
                 for family in internet]  # fmt: skip
        return [{"survey_sockets": name}, *every]

    # For whatever nobody has the kernel calls modprobe, 10 ms of guest time for each; without
    # a path it answers at once (d7d27cfc5cf0, 5.7). This guest has no modules to find.
    alone = _any("write_file", {"path": "/proc/sys/kernel/modprobe", "data": "\n"})
    steps = [alone, *look(BEFORE), load(around), *look(SOCKETS)]
    text = {"about": "Which sockets a module brings.", "lanes": _LONG,
            "actors": [_one("opener", steps)]}  # fmt: skip
    return make("sockets", text, around)


def _one(name: str, steps: Sequence[Step], **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields, "do": list(steps)}


def _longer(lives: int, are_long: int) -> dict[str, dict[str, int]]:
    """Return the lanes of so many lives, if the long bound is that of `are_long` of them."""
    return {
        lane: {"bound_us": limits["bound_us"] * -(-lives // are_long)}
        for lane, limits in _LONG.items()
    }


def cycles(around: Around, count: int) -> Scenario:
    """Load and unload, again and again, with nobody there."""
    body = [load(around), {"delay": 20_000}, {"delete_module": "${module}", "retries": 20}]
    text = {
        "about": "Load and unload, again and again.",
        "lanes": _longer(count, _SHORT_LIVES),
        "actors": [_one("cycler", body, repeat=count)],
    }
    return make("cycles", text, around)


def load_twice(around: Around) -> Scenario:
    """A second load is refused, and the first one is none the worse for it."""
    gone = {"delete_module": "${module}", "retries": 20}
    steps = [load(around), load(around, expect=["EEXIST"]), gone, load(around), gone]
    return make("load-twice", {"about": "Load twice.", "actors": [_one("loader", steps)]}, around)


def unload_absent(around: Around) -> Scenario:
    """An unload of what is not loaded is refused; before and after a life."""
    absent = {"delete_module": "${module}", "expect": ["ENOENT"]}
    steps = [absent, load(around), {"delete_module": "${module}", "retries": 20}, absent]
    text = {"about": "Unload what is not loaded.", "actors": [_one("remover", steps)]}
    return make("unload-absent", text, around)


def dependents(around: Around, needed: Sequence[str]) -> Scenario:
    """What the module needs cannot go while the module is there."""
    held = [{"delete_module": name, "expect": ["EAGAIN"]} for name in needed]
    steps = [load(around), *held, {"delete_module": "${module}", "retries": 20}]
    text = {"about": "Unload what others need.", "actors": [_one("remover", steps)]}
    return make("dependents", text, around)


def needed_by(around: Around, dependent: Surface, *, may_refuse: bool = False) -> Scenario:
    """The module cannot go while another is there that depends on it.

    Args:
        may_refuse: the other is not what is tested, and may find nothing here to drive.
    """
    above: Step = {"finit_module": f"/payload/{dependent.name}.ko"}
    if may_refuse:
        refused = [name for name in SANE if name != "ok"]
        above |= {"expect": [*SANE], "stop_on": refused}
    steps = [
        load(around),
        above,
        {"delete_module": "${module}", "expect": ["EAGAIN"]},
        {"delete_module": dependent.name, "retries": 20},
        {"delete_module": "${module}", "retries": 20},
    ]
    text = {"about": "Unload what another needs.", "actors": [_one("remover", steps)]}
    return make(f"needed-by-{dependent.slug}", _with_surroundings(text, [dependent]), around)


def forced(around: Around) -> Scenario:
    """The kernel is told to unload it whatever that breaks; nobody uses it, so nothing may."""
    name = {"name": "${module}", "flags": ["nonblock", "trunc"]}
    force: Step = {"delete_module": name, "retries": 20}
    text = {
        "about": "Forced unload, with nobody there.",
        "actors": [_one("remover", [load(around), force], repeat=3)],
    }
    return make("forced", text, around)


#: Results of a load with a parameter that the module may not like.
SANE: Final = (
    "ok", "EINVAL", "ERANGE", "EDOM", "ENOENT", "ENODEV", "ENXIO", "EBUSY", "EEXIST", "ENOMEM",
    "EPERM", "EACCES", "EOPNOTSUPP", "E2BIG", "EFBIG", "ENOSPC", "EOVERFLOW", "ENAMETOOLONG",
)  # fmt: skip
_BOUNDS: Final = {
    "byte": (0, 255), "short": (-(2**15), 2**15 - 1), "ushort": (0, 2**16 - 1),
    "int": (-(2**31), 2**31 - 1), "uint": (0, 2**32 - 1), "long": (-(2**63), 2**63 - 1),
    "ulong": (0, 2**64 - 1), "ullong": (0, 2**64 - 1), "hexint": (0, 2**32 - 1),
}  # fmt: skip


def boundary_values(kind: str) -> tuple[str, ...]:
    """Return values at the edges of a parameter's type, and some that it must refuse.

    Args:
        kind: as modinfo has it: ``int``, ``charp``, ``array of uint``.
    """
    base = kind.removeprefix("array of ")
    values: tuple[str, ...]
    if base in ("bool", "invbool", "bint"):
        values = ("y", "n", "2", "")
    elif base in _BOUNDS:
        low, high = _BOUNDS[base]
        values = tuple(str(value) for value in (0, 1, low, high, low - 1, high + 1))
        values = tuple(dict.fromkeys((*values, "", "none")))
    else:
        values = ("", "x", "-1", "x" * 1023, "x" * 1024)
    if kind != base:
        many = ",".join(["1"] * 70)
        values = (*values, "0,1", many, ",")
    return values


#: A number above which a module may take its time: of what it counts there would be as many.
_HUGE: Final = 2**16


def _is_huge(value: str) -> bool:
    return re.fullmatch(r"-?\d+", value) is not None and abs(int(value)) > _HUGE


def has_huge_values(kind: str) -> bool:
    """Return whether a parameter's type has values that may keep a module busy for ever."""
    return any(map(_is_huge, boundary_values(kind)))


def parameter(around: Around, name: str, kind: str, *, huge: bool = False) -> Scenario:
    """Load with a parameter at its boundaries: it goes, or says why not.

    Args:
        huge: with the huge ones, else with the others.
    """
    steps: list[Step] = [load(around), {"delete_module": "${module}", "retries": 20}]
    for value in boundary_values(kind):
        if _is_huge(value) is not huge:
            continue
        params = f"{around.parameters} {name}={value}".strip()
        steps += [load(around, params, expect=[*SANE]), unload(retries=20)]
    text = {"about": f"Boundary values of {name}.", "actors": [_one("loader", steps)]}
    return make(f"parameter-{name}{'-huge' if huge else ''}", text, around)


def signals(around: Around, signal: str) -> Scenario:
    """Signals at any stage of load and unload."""
    body: list[Step] = [
        load(around, expect=[*_LOAD_RACES, "EINTR", "ERESTART", "ENOMEM"]),
        {"delete_module": "${module}", "expect": [*_UNLOAD_RACES, "EINTR"]},
    ]
    pester: list[Step] = [
        {"sleep": {"us": 50, "jitter_us": 4000}},
        _any("kill", {"actor": "loader", "signal": signal}),
    ]
    ends = signal == "KILL"
    actors = [
        _one("loader", body, repeat=8),
        _one("pester", pester, **({} if ends else {"until": "loader"})),
    ]
    # Whom the first signal kills has not loaded anything.
    setup = [load(around), {"delete_module": "${module}", "retries": 20}]
    text = {"about": "Signals during load and unload.", "setup": setup, "actors": actors,
            "teardown": [unload(expect=["ok", "ENOENT"], retries=_LAST_RELEASE)]}  # fmt: skip
    return make(f"signals-{signal.lower()}", text, around)


def held(around: Around, surface: Surface) -> Scenario:
    """The contract: while it is held unload is refused, and after the last release it goes."""
    take, give, about = _hold(surface)
    holder = [load(around), *take, {"barrier": 0}, {"sleep": _HELD_US}, *give, {"barrier": 1}]
    remover: list[Step] = [
        {"barrier": 0},
        {"delete_module": "${module}", "expect": _REFUSED},
        {"barrier": 1},
        unload(retries=_LAST_RELEASE),
    ]
    text = {"about": about, "actors": [_one("holder", holder), _one("remover", remover)]}
    return make(f"held-{surface.slug}", _with_surroundings(text, [surface]), around)


def held_by(surface: Surface) -> tuple[str, str, str]:
    """Return the op that holds a surface in :func:`held`, what it holds, and the state of that."""
    if is_mountable(surface):
        return "mount", f"a mount of {surface.name}", "there"
    if surface.kind is Kind.CONFIGFS:
        return "mkdir", f"a folder in {surface.name}", "there"
    if surface.kind is Kind.SOCKET:
        return "open_socket", f"a socket of {surface.name}", "open"
    return "open", surface.name, "open"


def _hold(surface: Surface, name: str = "held") -> tuple[list[Step], list[Step], str]:
    """Return the steps that take hold of a surface, those that let go, and what that is.

    Args:
        name: of the folder that is made in configfs.
    """
    if is_mountable(surface):
        target = f"/mnt/{surface.slug}"
        take = [_any("mkdir", target), _any("mount", _mount(surface, target))]
        return take, [_any("umount", target), _any("rmdir", target)], "A mount is held."
    if surface.kind is Kind.CONFIGFS:
        folder = f"{surface.name}/{name}"
        return [_any("mkdir", folder)], [_any("rmdir", folder)], "A folder in configfs is held."
    if surface.kind is Kind.SOCKET:
        return [_open_socket(surface)], [_any("close", 0)], "A socket is held open."
    open_both = [
        _any("open", {"slot": 0, "path": surface.name, "flags": ["rdwr", "nonblock"]}),
        _any("open", {"slot": 1, "path": surface.name, "flags": ["rdonly", "nonblock"]}),
    ]
    return open_both, [_any("close", 0), _any("close", 1)], "A device is held open."


#: Kinds that must keep the module from going while they are held; of configfs it is a folder
#: that somebody has made.
_PINNING: Final = (Kind.CHARACTER, Kind.BLOCK, Kind.CONFIGFS, Kind.SOCKET)


def must_pin(surface: Surface) -> bool:
    """Return whether it must keep the module from going while it is held."""
    return surface.kind in _PINNING or is_mountable(surface)


def first_unload(around: Around) -> str:
    """Return the place of the first unload in :func:`held_files`."""
    return f"actors[1].do[{1 + len(around.before_unload)}]"


def held_files(around: Around, group: Group) -> Scenario:
    """Files that keep nobody from going: the module goes, and what is still open is harmless."""
    paths = [one for one in group.surfaces if one.readable or one.writable][: MAX_SLOTS - 1]
    take = [
        _any("open", {"slot": slot, "path": one.name,
                      "flags": ["rdonly" if one.readable else "wronly", "nonblock"]})
        for slot, one in enumerate(paths)
    ]  # fmt: skip
    touch: list[Step] = []
    for slot, one in enumerate(paths):
        if one.readable:
            touch += [_any("pread", {"slot": slot, "offset": 0, "count": 4096}),
                      _any("poll", {"slot": slot})]  # fmt: skip
        if one.writable:
            touch.append(_any("write", {"slot": slot, "count": 8}))
    give = [_any("close", slot) for slot in range(len(paths))]
    # debugfs and some of procfs may take a reference for the time that a file is open, and so
    # does configfs.
    may = ["ok"] if group.kind in (Kind.SYSFS, Kind.SYSCTL) else ["ok", *_REFUSED]
    first, last = _folders_of(paths)
    holder = [load(around), *first, *take, {"barrier": 0}, {"barrier": 1}, *touch, *give, *last,
              {"barrier": 2}]  # fmt: skip
    remover: list[Step] = [
        {"barrier": 0},
        {"delete_module": "${module}", "expect": may, "retries": 5},
        {"barrier": 1},
        {"barrier": 2},
        unload(retries=_LAST_RELEASE),
    ]
    text = {"about": "Files are held open.",
            "actors": [_one("holder", holder), _one("remover", remover)]}  # fmt: skip
    return make(f"held-{group.name}", text, around)


def use(
    around: Around,
    several: Sequence[Group],
    seed: int,
    *,
    name: str = "use",
    turns: int = 1,
    leaks: bool = False,
    after: Sequence[Step] = (),
) -> Scenario:
    """Load, let each surface be used by one after another, unload: nobody races.

    Args:
        name: of the scenario.
        leaks: look for leaked memory afterwards, which takes long.
        after: what is done when the module has gone, each time.
    """
    rng = random.Random(seed)
    steps = [step for group in several for step in _use_whole(group, rng, "u")]
    gone = [_any("umount_all", "/mnt"), unload(expect=["ok"], retries=_LAST_RELEASE)]
    user = _one("user", [load(around), *steps, *around.use, *gone, *after], repeat=turns)
    text = {
        "about": "Each surface is used, then the module goes.",
        "lanes": {
            lane: {**limits, "kmemleak": leaks}
            for lane, limits in _longer(turns, _LONG_LIVES).items()
        },
        "actors": [user, *_waker(["user"])],
    }
    return make(name, _with_surroundings(text, _surfaces(several)), around)


def _surfaces(several: Iterable[Group]) -> list[Surface]:
    return [surface for group in several for surface in group.surfaces]


def in_order(around: Around, several: Sequence[Group]) -> tuple[Scenario, ...]:
    """Return for each surface a scenario of one user, whose steps come in one order.

    Without any surface it is one that loads and unloads.
    """
    lines = [(group.name, _in_order(group), group.surfaces) for group in several]
    if around.use:
        lines.append(("own-use", list(around.use), ()))
    return tuple(
        make(f"order-{name}", _with_surroundings(_line(around, steps), used), around)
        for name, steps, used in lines or [("alone", [], ())]
    )


def _line(around: Around, steps: Sequence[Step]) -> dict[str, Any]:
    gone = [_any("umount_all", "/mnt"), unload(expect=["ok"], retries=_LAST_RELEASE)]
    return {
        "about": "Each thing that a user does, once.",
        "actors": [_one("user", [load(around), *steps, *gone])],
    }


def _in_order(group: Group) -> list[Step]:
    surface = group.surfaces[0]
    if group.kind in FILES:
        steps = [step for act in _file_acts(group.surfaces, random.Random(1)) for step in act]
        first, last = _folders_of(group.surfaces)
        return [*first, *steps, *last]
    if surface.kind in (Kind.CHARACTER, Kind.BLOCK):
        rng = random.Random(1)
        opened = {"slot": 0, "path": surface.name, "flags": ["rdwr", "nonblock"]}
        acts = _device_acts(rng, (*surface.requests, *_KNOWN_REQUESTS))
        return [_any("open", opened), *(step for act in acts for step in act), _any("close", 0)]
    if surface.kind is Kind.SOCKET:
        return _each_socket(group, random.Random(1))
    return _use(group, random.Random(1), "o")


def users(around: Around, name: str, several: Sequence[Group], seed: int, turns: int) -> Scenario:
    """Users of surfaces against somebody who unloads and loads."""
    rng = random.Random(f"{name} {seed}")
    actors = []
    each = 2 if len(several) == 1 else 1
    for number, group in enumerate(several):
        steps = _use(group, rng, f"{number}-${{i}}")
        actors.append(_one(f"user{number}", steps, repeat=turns, count=each))
    if around.use and len(several) != 1:
        actors.append(_one("own-use", around.use, repeat=turns))
    names = [actor["name"] for actor in actors]
    remove: list[Step] = [
        {"sleep": {"us": 20, "jitter_us": 3000}},
        {"delete_module": "${module}", "expect": _UNLOAD_RACES},
        {"sleep": {"us": 0, "jitter_us": 500}},
        load(around, expect=_LOAD_RACES),
    ]
    alive = [f"{one['name']}.{i}" if each > 1 else one["name"] for one in actors
             for i in range(one.get("count", 1))]  # fmt: skip
    text = {
        "about": f"Users of {', '.join(group.name for group in several)} against unload.",
        "setup": [load(around)],
        "actors": [*actors, _one("remover", remove, until=names), *_waker(names, alive)],
    }
    return make(name, _with_surroundings(text, _surfaces(several)), around)


def _waker(names: Sequence[str], alive: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return who interrupts users that wait for something that never comes."""
    steps: list[Step] = [{"sleep": 40_000}]
    steps += [_any("kill", {"actor": name, "signal": "USR1"}) for name in alive or names]
    return [_one("waker", steps, until=list(names))]


def _use_whole(group: Group, rng: random.Random, tag: str) -> list[Step]:
    """Return the steps of somebody who leaves out nothing that can be done, in any order."""
    surface = group.surfaces[0]
    before: list[Step] = []
    after: list[Step] = []
    if group.kind in FILES:
        before, after = _folders_of(group.surfaces)
        acts = _file_acts(group.surfaces, rng)
    elif surface.kind in (Kind.CHARACTER, Kind.BLOCK):
        for how in ("wronly", "rdonly", "rdwr"):
            flags = {"slot": 0, "path": surface.name, "flags": [how, "nonblock"]}
            before += [_any("close", 0), _any("open", flags)]
        acts, after = _device_acts(rng, _requests(rng, surface)), [_any("close", 0)]
    elif surface.kind is Kind.SOCKET:
        return _each_socket(group, rng)
    else:
        return _use(group, rng, tag)
    rng.shuffle(acts)
    return [*before, *(step for act in acts for step in act), *after]


def _use(group: Group, rng: random.Random, tag: str) -> list[Step]:
    if group.kind in FILES:
        return _use_files(group.surfaces, rng)
    surface = group.surfaces[0]
    match surface.kind:
        case Kind.CHARACTER | Kind.BLOCK:
            return _use_device(surface, rng)
        case Kind.FILESYSTEM | Kind.DISK_FILESYSTEM:
            return _use_filesystem(surface, tag)
        case Kind.INTERFACE:
            return _use_interface(surface.name)
        case Kind.SOCKET:
            opens = _choose([[_open_socket(one)] for one in group.surfaces])
            acts = _choose(_socket_acts(surface, rng))
            return [opens, {"loop": 6, "do": [acts]}, _any("close", 0)]
        case Kind.LINK:
            name = f"chk{tag}"
            link = _shell(f"ip link add name {name} type {surface.name}")
            return [link, *_use_interface(name), _shell(f"ip link del {name}")]
        case Kind.DEPENDENT:
            # Another user may be faster, and who unloads may come between.
            return [_any("finit_module", f"/payload/{surface.name}.ko"), {"delay": 2000},
                    _gone(surface.name)]  # fmt: skip
        case _:
            folder = f"{surface.name}/check{tag}"
            return [_any("mkdir", folder), {"delay": 2000}, _any("rmdir", folder)]


def _use_interface(name: str) -> list[Step]:
    """Return the steps of somebody who sends a packet through an interface and takes it down."""
    # Nobody answers: who waits for that is ended. In a scenario $$ stands for $.
    send = (
        f"exec >/dev/null 2>&1; ip addr add {_ADDRESS}/24 dev {name}; "
        f"ping -c 1 -W 1 -I {name} {_PEER} & sleep 0.01; kill $$!; wait; "
        f"ip addr del {_ADDRESS}/24 dev {name}"
    )
    return [_any("ifup", name), _shell(send), _any("ifdown", name)]


def _shell(command: str) -> Step:
    return _any("exec", {"program": "/bin/sh", "args": ["-c", command]})


def _use_device(surface: Surface, rng: random.Random) -> list[Step]:
    acts = _device_acts(rng, _requests(rng, surface))
    opens = [
        [_any("open", {"slot": 0, "path": surface.name, "flags": [how, "nonblock"]})]
        for how in ("rdwr", "rdwr", "rdonly", "wronly")
    ]
    return [_choose(opens), {"loop": 6, "do": [_choose(acts)]}, _any("close", 0)]


def _device_acts(rng: random.Random, requests: Sequence[int]) -> list[list[Step]]:
    """Return what may be done with a device that is open in slot 0."""
    return [
        [_any("read", {"slot": 0, "count": 200})],
        [_any("write", {"slot": 0, "count": 200})],
        [_any("pread", {"slot": 0, "offset": 0, "count": 4096})],
        [_any("pwrite", {"slot": 0, "offset": rng.choice((0, 100, 4096)), "count": 4096})],
        [_any("lseek", {"slot": 0, "offset": 0, "whence": "end"})],
        [_any("poll", {"slot": 0, "events": ["in", "out"]})],
        [_any("fsync", 0)],
        [
            _any("mmap", {"map": 0, "slot": 0, "length": 4096}),
            _any("touch", {"map": 0}),
            _any("munmap", 0),
        ],
        [
            _any("mmap", {"map": 0, "slot": 0, "length": 8192, "prot": ["read", "write"]}),
            _any("touch", {"map": 0, "how": "write"}),
            _any("munmap", 0),
        ],
        *([_any("ioctl", {"slot": 0, "request": request, "arg": rng.choice((0, 1))}),
           _any("ioctl", {"slot": 0, "request": request, "data": "abc"})]
          for request in requests),
    ]  # fmt: skip


def _open_socket(surface: Surface) -> Step:
    family, kind, protocol = socket_arguments(surface)
    asked = {"slot": 0, "family": family, "type": kind, "protocol": protocol}
    return _any("open_socket", asked)


def _each_socket(group: Group, rng: random.Random) -> list[Step]:
    """Return the steps of somebody who does with each socket what can be done, in any order."""
    steps: list[Step] = []
    for one in group.surfaces:
        acts = _socket_acts(one, rng)
        rng.shuffle(acts)
        # What is shut down does nothing more.
        last = _call("shutdown", number=2)
        steps += [_open_socket(one), *(step for act in acts for step in act), last,
                  _any("close", 0)]  # fmt: skip
    return steps


def _call(what: str, **fields: int | str) -> Step:
    return _any("socket_call", {"slot": 0, "call": what, **fields})


def _socket_acts(surface: Surface, rng: random.Random) -> list[list[Step]]:
    """Return what may be done with a socket that is open in slot 0.

    Addresses are all zeros, so that nothing is sent to anybody else.
    """
    levels = (*_LEVELS, socket_arguments(surface)[2], rng.randrange(*_FAMILY_LEVELS))
    # An address of the usual length, and the longest: sizeof(struct sockaddr_storage).
    lengths = (16, 128)
    options = [
        [_call("setsockopt", level=level, number=option, data="\x01"),
         _call("getsockopt", level=level, number=option)]
        for level in dict.fromkeys(levels)
        for option in (rng.randrange(4), rng.randrange(4, 32))
    ]  # fmt: skip
    requests = dict.fromkeys((*_SOCKET_REQUESTS, *_requests(rng, surface)))
    return [
        *([_call(what, number=length)] for what in ("bind", "connect", "sendto")
          for length in lengths),
        [_call("listen", number=4), _call("accept")],
        [_call("send")],
        [_call("recvfrom")],
        [_any("read", {"slot": 0, "count": 200})],
        [_any("poll", {"slot": 0, "events": ["in", "out"]})],
        [_call("getsockname"), _call("getpeername")],
        [_any("mmap", {"map": 0, "slot": 0, "length": 4096}), _any("munmap", 0)],
        *options,
        *([_any("ioctl", {"slot": 0, "request": request, "data": "abc"})] for request in requests),
    ]  # fmt: skip


def _requests(rng: random.Random, device: Surface) -> list[int]:
    """Return what a device is asked: what its module knows, what any may know, and by chance."""
    by_chance = [rng.choice(_KNOWN_REQUESTS), *(_request(rng) for _ in range(3))]
    return [*device.requests, *by_chance]


def _request(rng: random.Random) -> int:
    """Return an ioctl number as ``_IOC`` makes them: direction, size, type and number."""
    size = rng.choice((0, 4, 8, 16))
    direction = rng.randrange(1, 4) if size else 0
    kind = ord(rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    return direction << 30 | size << 16 | kind << 8 | rng.randrange(16)


def _choose(bodies: Sequence[Sequence[Step]]) -> Step:
    return {"choose": [{"do": list(body)} for body in bodies]}


def _use_files(files: Sequence[Surface], rng: random.Random) -> list[Step]:
    first, last = _folders_of(files)
    return [*first, {"loop": 8, "do": [_choose(_file_acts(files, rng))]}, *last]


def _folders_of(files: Iterable[Surface]) -> tuple[list[Step], list[Step]]:
    """Return the steps that make the folders some files of configfs are in, and that remove them.

    Files of other kinds are there by themselves.
    """
    pattern = re.compile(rf"(.*/{MADE_FOLDER})/.*")
    found = [match[1] for one in files if (match := pattern.fullmatch(one.name))]
    folders = list(dict.fromkeys(found))
    return [_any("mkdir", one) for one in folders], [_any("rmdir", one) for one in folders]


def _file_acts(files: Sequence[Surface], rng: random.Random) -> list[list[Step]]:
    """Return what may be done with each file."""
    acts: list[list[Step]] = []
    for one in files:
        if one.readable or not one.writable:
            opened = {"slot": 0, "path": one.name, "flags": ["rdonly", "nonblock"]}
            acts.append(
                [_any("open", opened), _any("read", {"slot": 0, "count": 4096}), _any("close", 0)]
            )
        if one.writable:
            data = {"path": one.name, "data": rng.choice(_TEXTS)}
            acts.append([_any("write_file", data)])
    return acts


def _use_filesystem(surface: Surface, tag: str) -> list[Step]:
    target = f"/mnt/{surface.slug}-{tag}"
    file, folder = f"{target}/file", f"{target}/folder"
    missing = ["EINVAL", "ENODEV", "ENOENT", "ENOMEM", "EBUSY", "EAGAIN", "EPERM", "ENOTBLK",
               "ENXIO", "EIO"]  # fmt: skip
    steps = [
        _any("mkdir", target),
        # Without a mount the files would be the guest's own.
        _any("mount", _mount(surface, target), stop_on=missing),
        _any("open", {"slot": 0, "path": file, "flags": ["rdwr", "creat"]}),
        _any("pwrite", {"slot": 0, "offset": 0, "count": 3000}),
        _any("pread", {"slot": 0, "offset": 0, "count": 4096}),
        _any("mkdir", folder),
        _any("open", {"slot": 1, "path": target, "flags": ["rdonly", "directory"]}),
        _any("readdir", {"slot": 1}),
        _any("rename", {"from": file, "to": f"{target}/renamed"}),
        _any("close", 0),
        _any("close", 1),
        _any("unlink", f"{target}/renamed"),
        _any("rmdir", folder),
        _any("umount", target),
    ]
    # A list of its own: a mount that fails ends it, and nothing else.
    return [{"loop": 1, "do": steps}]
