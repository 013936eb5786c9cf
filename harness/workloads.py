# SPDX-License-Identifier: GPL-2.0-only
"""Lives of a module, with users of what it exposes or with nobody there: surfaces to scenarios.

What one user does is in :mod:`harness.uses`. Scenarios are made as the YAML that a person
would write (``docs/scenarios.md``), so that the same reader checks them; what a seed may
choose is chosen by the seed. Pure.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from harness import disks, scenario, sockets, uses
from harness.ops import MAX_SLOTS
from harness.scenario import Scenario
from harness.surfaces import BEFORE, LOADED, MADE, MADE_FOLDER, MOUNTED, SOCKETS, Kind, Surface
from harness.uses import LAST_RELEASE, Group, Step, attempt

#: Guest time in which somebody holds what must keep the module from going, microseconds.
_HELD_US: Final = 60_000
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


def _with_surroundings(text: dict[str, Any], several: Sequence[Surface]) -> dict[str, Any]:
    """Return a scenario's fields with what its surfaces need around them: disks, for filesystems.

    Modules that depend on the main one go before it in the end: a user may have been interrupted.
    """
    names = [one.name for one in several if one.kind is Kind.DISK_FILESYSTEM]
    above = [uses.gone(one.name) for one in several if one.kind is Kind.DEPENDENT]
    if not names and not above:
        return text
    make = [disks.setup(name) for name in names]
    take = [disks.teardown(name) for name in names]
    last = text.get("teardown", [unload(retries=LAST_RELEASE)])
    return {**text, "setup": [*make, *text.get("setup", [])], "teardown": [*above, *last, *take]}


def make(name: str, text: dict[str, Any], around: Around = NOTHING) -> Scenario:
    """Return a scenario from its fields, with what goes around those of the module.

    Raises:
        ScenarioError: the steps of a ``harness.yaml`` are wrong.
    """
    lanes = text.pop("lanes", {"det": {"bound_us": 10_000_000}, "smp": {"bound_us": 30_000_000}})
    first = [{"finit_module": f"/payload/{name}.ko"} for name in around.load_first]
    last = [
        {"delete_module": name, "retries": LAST_RELEASE} for name in reversed(around.load_first)
    ]
    whole = {
        "surfaces": ["module"],
        "lanes": lanes,
        "setup": [*first, *around.setup, *text.pop("setup", [])],
        **text,
        "teardown": [
            *text.pop("teardown", [unload(retries=LAST_RELEASE)]),
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


def unload(**fields: Any) -> Step:
    """Return the step that unloads it; that it is gone already is as good."""
    return {"delete_module": "${module}", "expect": ["ok", "ENOENT"], **fields}


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
    take, give, _ = uses.hold(surface, MADE_FOLDER)
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
    alone = attempt("write_file", {"path": "/proc/sys/kernel/modprobe", "data": "\n"})
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
    # A text may be the name of a file.
    "EISDIR", "ENOTDIR", "EROFS",
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
        attempt("kill", {"actor": "loader", "signal": signal}),
    ]
    ends = signal == "KILL"
    actors = [
        _one("loader", body, repeat=8),
        _one("pester", pester, **({} if ends else {"until": "loader"})),
    ]
    # Whom the first signal kills has not loaded anything.
    setup = [load(around), {"delete_module": "${module}", "retries": 20}]
    text = {"about": "Signals during load and unload.", "setup": setup, "actors": actors,
            "teardown": [unload(expect=["ok", "ENOENT"], retries=LAST_RELEASE)]}  # fmt: skip
    return make(f"signals-{signal.lower()}", text, around)


def held(around: Around, surface: Surface) -> Scenario:
    """The contract: while it is held unload is refused, and after the last release it goes."""
    take, give, about = uses.hold(surface)
    holder = [load(around), *take, {"barrier": 0}, {"sleep": _HELD_US}, *give, {"barrier": 1}]
    remover: list[Step] = [
        {"barrier": 0},
        {"delete_module": "${module}", "expect": _REFUSED},
        {"barrier": 1},
        unload(retries=LAST_RELEASE),
    ]
    text = {"about": about, "actors": [_one("holder", holder), _one("remover", remover)]}
    return make(f"held-{surface.slug}", _with_surroundings(text, [surface]), around)


def first_unload(around: Around) -> str:
    """Return the place of the first unload in :func:`held_files`."""
    return f"actors[1].do[{1 + len(around.before_unload)}]"


def held_files(around: Around, group: Group) -> Scenario:
    """Files that keep nobody from going: the module goes, and what is still open is harmless."""
    paths = [one for one in group.surfaces if one.readable or one.writable][: MAX_SLOTS - 1]
    take = [
        attempt("open", {"slot": slot, "path": one.name,
                      "flags": ["rdonly" if one.readable else "wronly", "nonblock"]})
        for slot, one in enumerate(paths)
    ]  # fmt: skip
    touch: list[Step] = []
    for slot, one in enumerate(paths):
        if one.readable:
            touch += [attempt("pread", {"slot": slot, "offset": 0, "count": 4096}),
                      attempt("poll", {"slot": slot})]  # fmt: skip
        if one.writable:
            touch.append(attempt("write", {"slot": slot, "count": 8}))
    give = [attempt("close", slot) for slot in range(len(paths))]
    # debugfs and some of procfs may take a reference for the time that a file is open, and so
    # does configfs.
    may = ["ok"] if group.kind in (Kind.SYSFS, Kind.SYSCTL) else ["ok", *_REFUSED]
    first, last = uses.folders_of(paths)
    holder = [load(around), *first, *take, {"barrier": 0}, {"barrier": 1}, *touch, *give, *last,
              {"barrier": 2}]  # fmt: skip
    remover: list[Step] = [
        {"barrier": 0},
        {"delete_module": "${module}", "expect": may, "retries": 5},
        {"barrier": 1},
        {"barrier": 2},
        unload(retries=LAST_RELEASE),
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
    steps = [step for group in several for step in uses.use_whole(group, rng, "u")]
    gone = [attempt("umount_all", "/mnt"), unload(expect=["ok"], retries=LAST_RELEASE)]
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
    lines = [(group.name, uses.use_in_order(group), group.surfaces) for group in several]
    if around.use:
        lines.append(("own-use", list(around.use), ()))
    return tuple(
        make(f"order-{name}", _with_surroundings(_line(around, steps), used), around)
        for name, steps, used in lines or [("alone", [], ())]
    )


def _line(around: Around, steps: Sequence[Step]) -> dict[str, Any]:
    gone = [attempt("umount_all", "/mnt"), unload(expect=["ok"], retries=LAST_RELEASE)]
    return {
        "about": "Each thing that a user does, once.",
        "actors": [_one("user", [load(around), *steps, *gone])],
    }


def users(around: Around, name: str, several: Sequence[Group], seed: int, turns: int) -> Scenario:
    """Users of surfaces against somebody who unloads and loads."""
    rng = random.Random(f"{name} {seed}")
    actors = []
    each = 2 if len(several) == 1 else 1
    for number, group in enumerate(several):
        steps = uses.use(group, rng, f"{number}-${{i}}")
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
    steps += [attempt("kill", {"actor": name, "signal": "USR1"}) for name in alive or names]
    return [_one("waker", steps, until=list(names))]
