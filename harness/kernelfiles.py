# SPDX-License-Identifier: GPL-2.0-only
"""Files that say what kernels there are: one for each kernel, one for each profile.

``kernels/NAME.yaml`` says where a kernel comes from, ``profiles/NAME.yaml`` how it
is configured and booted. Both are found under ``images/`` and, before that, in
the folder that ``KMOD_HARNESS_IMAGES`` names; a kernel may also be given as the
path of its file. What a kernel and a profile mean together is a :class:`Recipe`.

A profile's name may be followed by options: ``kasan+BLOCK=y+ZRAM=m`` is ``kasan``
with these on top. Such a name says all that there is to say about it, so it needs
no file, and a bundle with it replays elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import pydantic

from harness import kconfig, scenario_yaml
from harness.errors import UsageError
from harness.resources import data_dir
from harness.scenario_yaml import Document

#: An option on top of a profile; the value of one without is y.
_ADDED = re.compile(r"^(?:CONFIG_)?([A-Z0-9][A-Za-z0-9_]*)(?:=([ymn]|-?\d+|0x[0-9a-fA-F]+))?$")
#: What a kernel's modules know it by.
_RELEASE = "CONFIG_LOCALVERSION"

DEFAULT_KERNEL = "6.1"
DEFAULT_PROFILE = "kasan"

#: Names a folder with ``kernels/``, ``profiles/`` and ``fragments/`` of one's own.
IMAGES_VARIABLE = "KMOD_HARNESS_IMAGES"

Option = Annotated[str, pydantic.StringConstraints(pattern=r"^CONFIG_\w+$")]
Word = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9][\w.+-]*$")]
Argument = Annotated[str, pydantic.StringConstraints(pattern=r"^\S+$")]
Suites = Annotated[tuple[Word, ...], pydantic.Field(min_length=1)]


class _Fields(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class DebianImage(_Fields):
    """Debian's own binary kernel and its headers, unchanged."""

    image: Word
    headers: Word
    suites: Suites


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


Pattern = Annotated[str, pydantic.AfterValidator(_pattern)]


class KnownReport(_Fields):
    """What a kernel reports about itself, whichever module is used."""

    #: The report's title, all of it.
    title: Pattern
    #: What its text has somewhere: what tells it from a module's own of that title.
    text: Pattern
    #: Whose mistake it is, and where it was mended.
    reason: str


class _KernelFile(_Fields):
    name: Word
    #: Options of the fragments that it does not have, and can do without.
    lacks: tuple[Option, ...] = ()
    #: Its own reports, which say nothing about a module.
    known: tuple[KnownReport, ...] = ()
    #: The program that compiles it and its modules.
    compiler: Word = "gcc"
    #: The binary that a profile takes which changes nothing.
    distro: DebianImage | None = None


class DebianSource(_KernelFile):
    """The newest version of a ``linux-source`` package."""

    provider: Literal["debian-source"]
    package: Word
    suites: Suites


class Tarball(_KernelFile):
    """A source archive, at an address or in a file, known by its checksum."""

    provider: Literal["tarball"]
    #: ``https:``, ``http:`` or a path, seen from the folder of the kernel's file.
    url: str
    sha256: Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class DebianBinary(_KernelFile, DebianImage):
    """A kernel of which there is only Debian's binary."""

    provider: Literal["debian-image"]


class Tree(_KernelFile):
    """A kernel that its developer has built: used as it is."""

    provider: Literal["tree"]
    #: The folder that make wrote to, seen from the folder of the kernel's file.
    path: str


KernelFile: TypeAlias = DebianSource | Tarball | DebianBinary | Tree
_PROVIDERS: Mapping[str, type[KernelFile]] = {
    "debian-source": DebianSource,
    "tarball": Tarball,
    "debian-image": DebianBinary,
    "tree": Tree,
}

#: Where the parts of a kernel come from.
Origin: TypeAlias = DebianSource | Tarball | DebianImage | Tree


class Profile(_Fields):
    """What a kernel is configured and booted with."""

    name: Word
    about: str = ""
    #: Names of configuration fragments, the later one wins; none takes a kernel as it is.
    fragments: tuple[Word, ...] = ()
    #: Options without which the profile would be another one.
    needs: tuple[Option, ...] = ()
    #: Lines that make prints in a whole build, for the progress display.
    steps: pydantic.PositiveInt = 1
    #: Kernel arguments beside those of every guest.
    arguments: tuple[Argument, ...] = ()
    #: Modules of the kernel's own that the guest loads first, with what they need.
    modules: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a kernel is made from: one kernel file and one profile file."""

    name: str
    profile: str
    origin: Origin
    options: tuple[tuple[str, str], ...]
    #: Lines that make prints in a whole build, for the progress display.
    steps: int
    #: What the kernel must have, however it was made.
    needs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    #: Its own reports, which say nothing about a module.
    known: tuple[KnownReport, ...] = ()
    compiler: str = "gcc"
    #: Options on top of what the profile's file says; what becomes of them is the user's matter.
    added: tuple[str, ...] = ()
    #: The kernel's file, for messages; paths in it are seen from its folder.
    file: Path = field(default=Path(), compare=False)

    @property
    def label(self) -> str:
        return f"{self.name}-{self.profile}"

    @property
    def is_compiled(self) -> bool:
        """Whether it is compiled here, and not taken as it is."""
        return isinstance(self.origin, DebianSource | Tarball)


def known_kernels() -> tuple[str, ...]:
    """Return the names of the kernels that have a file, oldest first."""
    return tuple(sorted(_files("kernels"), key=_by_version))


def known_profiles() -> tuple[str, ...]:
    """Return the names of the profiles that have a file."""
    return tuple(sorted(_files("profiles")))


def load_recipe(name: str = DEFAULT_KERNEL, profile: str = DEFAULT_PROFILE) -> Recipe:
    """Read what a kernel is made from.

    Args:
        name: of a known kernel, or the path of a file ending in ``.yaml``.

    Raises:
        UsageError: no such kernel or profile (lists the known ones), a file of
            theirs is wrong, or they do not go together.
    """
    path = _find("kernel", name)
    kernel = read_kernel(path)
    base, added = split_profile(profile)
    profile = add_options(base, added)
    settings = read_profile(_find("profile", base))
    if added and (not settings.fragments or not isinstance(kernel, DebianSource | Tarball)):
        raise UsageError(
            f"kernel {kernel.name} with profile {base}: taken as it is, nothing can be added to"
            f" its configuration ({', '.join(added)})",
            hint="options can be added where the kernel is compiled here, as with"
            f" `--kernel {DEFAULT_KERNEL} --profile {DEFAULT_PROFILE}`",
        )
    if not settings.fragments:
        return _as_it_is(kernel, settings, path)
    if isinstance(kernel, DebianBinary):
        raise UsageError(
            f"kernel {kernel.name}: Debian's binary cannot be configured, and the profile"
            f" {profile} does that",
            hint="say --profile distro",
        )
    gone = sorted(set(settings.needs) & set(kernel.lacks))
    if gone:
        raise UsageError(
            f"profile {profile}: the kernel {kernel.name} has no {', '.join(gone)} (`lacks` in"
            f" {path})"
        )
    options = kconfig.merge(_fragment(fragment, profile) for fragment in settings.fragments)
    for option in kernel.lacks:
        options.pop(option, None)
    options |= added
    if added:
        # Modules of one must not pass for modules of the other.
        release = options.get(_RELEASE, '""').strip('"')
        mark = hashlib.sha256(profile.encode()).hexdigest()[:6]
        options[_RELEASE] = f'"{release}.{mark}"'
    return Recipe(
        name=kernel.name,
        profile=profile,
        origin=kernel,
        options=tuple(sorted(options.items())),
        steps=settings.steps,
        needs=settings.needs,
        arguments=settings.arguments,
        modules=settings.modules if isinstance(kernel, Tree) else (),
        known=kernel.known,
        compiler=kernel.compiler,
        added=tuple(sorted(added)),
        file=path,
    )


def split_profile(profile: str) -> tuple[str, dict[str, str]]:
    """Return the name of a profile's file, and what its name adds: option → value.

    Raises:
        UsageError: what follows the name is no option.
    """
    if "+" not in profile or profile in _files("profiles"):
        return profile, {}
    base, *words = profile.split("+")
    return base, parse_options(words)


def add_options(profile: str, options: Mapping[str, str]) -> str:
    """Return the name of a profile with options on top: one name for one set of them."""
    base, added = split_profile(profile)
    added |= options
    words = (f"{name.removeprefix('CONFIG_')}={added[name]}" for name in sorted(added))
    return "+".join((base, *words))


def parse_options(words: Iterable[str]) -> dict[str, str]:
    """Return option → value of words such as ``BLOCK``, ``BLOCK=y`` or ``CONFIG_ZRAM=m``.

    Raises:
        UsageError: one is no option with a value.
    """
    options = {}
    for word in words:
        match = _ADDED.match(word)
        if match is None:
            raise UsageError(
                f"configuration option {word!r}: not of the form NAME=VALUE",
                hint="NAME as in Kconfig, VALUE y, m, n or a number, such as BLOCK=y or ZRAM=m",
            )
        options[f"CONFIG_{match[1]}"] = match[2] or "y"
    return options


def read_kernel(path: Path) -> KernelFile:
    """Read a kernel's file.

    Raises:
        UsageError: it is wrong; the message starts with ``file:line:``.
    """
    document = _document(path, "a kernel's file")
    fields = document.value
    assert isinstance(fields, dict)
    provider = fields.get("provider")
    if provider is None:
        raise document.error((), "provider: is missing")
    model = _PROVIDERS.get(provider) if isinstance(provider, str) else None
    if model is None:
        near = scenario_yaml.near(str(provider), _PROVIDERS)
        raise document.error(
            ("provider",), f"{provider!r} is none of {', '.join(_PROVIDERS)}{near}"
        )
    kernel = document.validate(model)
    _check_name(document, kernel.name, path)
    return kernel


def read_profile(path: Path) -> Profile:
    """Read a profile's file.

    Raises:
        UsageError: it is wrong; the message starts with ``file:line:``.
    """
    document = _document(path, "a profile's file")
    profile = document.validate(Profile)
    _check_name(document, profile.name, path)
    for number, fragment in enumerate(profile.fragments):
        if fragment not in _files("fragments", ".config"):
            raise document.error(
                ("fragments", number),
                f"no {fragment}.config in {' or '.join(map(str, _folders('fragments')))}",
            )
    return profile


def combinations() -> tuple[tuple[str, str], ...]:
    """Return every kernel and profile that go together, by their files alone.

    Raises:
        UsageError: one of the files is wrong.
    """
    found = []
    profiles = {name: read_profile(_find("profile", name)) for name in known_profiles()}
    for name in known_kernels():
        kernel = read_kernel(_find("kernel", name))
        for profile, settings in profiles.items():
            if settings.fragments:
                fits = not isinstance(kernel, DebianBinary)
                fits = fits and not set(settings.needs) & set(kernel.lacks)
            else:
                fits = not isinstance(kernel, DebianSource | Tarball) or kernel.distro is not None
            if fits:
                found.append((name, profile))
    return tuple(found)


#: Name of a detector → an option without which it is not there, and a kernel argument
#: that it needs beside, if any. Where several lines have a name, one of them is enough.
_DETECTORS = (
    ("KASAN", "CONFIG_KASAN", None),
    ("KCSAN", "CONFIG_KCSAN", None),
    ("lockdep", "CONFIG_PROVE_LOCKING", None),
    ("kmemleak", "CONFIG_DEBUG_KMEMLEAK", None),
    ("debugobjects", "CONFIG_DEBUG_OBJECTS_FREE", None),
    ("sleep in atomic", "CONFIG_DEBUG_ATOMIC_SLEEP", None),
    ("list corruption", "CONFIG_DEBUG_LIST", None),
    ("notifier check", "CONFIG_DEBUG_NOTIFIERS", None),
    ("SLUB", "CONFIG_SLUB_DEBUG", None),
    ("SLUB poison", "CONFIG_SLUB_DEBUG_ON", None),
    ("SLUB poison", "CONFIG_SLUB_DEBUG", "slub_debug"),
    ("page poison", "CONFIG_PAGE_POISONING", "page_poison=1"),
    ("hung task", "CONFIG_DETECT_HUNG_TASK", None),
    ("soft lockup", "CONFIG_SOFTLOCKUP_DETECTOR", None),
    ("fault injection", "CONFIG_FAILSLAB", None),
)


def detectors(config: Mapping[str, str], arguments: Iterable[str]) -> tuple[str, ...]:
    """Return what can be found in a kernel of this configuration, booted like this."""
    given = tuple(arguments)
    found = {
        name: None
        for name, option, argument in _DETECTORS
        if config.get(option, "n") == "y"
        and (argument is None or any(word.startswith(argument) for word in given))
    }
    return tuple(found)


def _as_it_is(kernel: KernelFile, settings: Profile, path: Path) -> Recipe:
    origin: Origin | None = kernel if isinstance(kernel, DebianBinary | Tree) else kernel.distro
    if origin is None:
        raise UsageError(
            f"kernel {kernel.name}: there is only its source, and the profile {settings.name}"
            " takes a kernel as it is",
            hint=f"name a binary under `distro` in {path}, or say another --profile",
        )
    return Recipe(
        name=kernel.name,
        profile=settings.name,
        origin=origin,
        options=(),
        steps=1,
        needs=settings.needs,
        arguments=settings.arguments,
        modules=settings.modules,
        known=kernel.known,
        compiler=kernel.compiler,
        file=path,
    )


def _is_path(name: str) -> bool:
    return name.endswith(".yaml")


def _folders(kind: str) -> tuple[Path, ...]:
    """Return where files of a kind lie, one's own first."""
    own = os.environ.get(IMAGES_VARIABLE)
    roots = ([Path(own).expanduser().absolute()] if own else []) + [data_dir("images")]
    if own and not roots[0].is_dir():
        raise UsageError(f"{IMAGES_VARIABLE}={own}: no such folder")
    return tuple(root / kind for root in roots)


def _files(kind: str, suffix: str = ".yaml") -> dict[str, Path]:
    """Return name → file; one's own file stands before ours of the same name."""
    found: dict[str, Path] = {}
    for folder in _folders(kind):
        for path in sorted(folder.glob(f"*{suffix}")):
            found.setdefault(path.name.removesuffix(suffix), path)
    return found


def _find(kind: str, name: str) -> Path:
    if kind == "kernel" and _is_path(name):
        path = Path(name).expanduser().absolute()
        if not path.is_file():
            raise UsageError(f"kernel {name}: no such file")
        return path
    known = _files(f"{kind}s")
    if name not in known:
        names = known_kernels() if kind == "kernel" else known_profiles()
        raise UsageError(
            f"{kind} {name!r}: unknown; known: {', '.join(names)}",
            hint=f"one of your own is a file in ${IMAGES_VARIABLE}/{kind}s",
        )
    return known[name]


def _by_version(name: str) -> tuple[list[int], str]:
    return [int(part) for part in re.findall(r"\d+", name)], name


def _document(path: Path, what: str) -> Document:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    return scenario_yaml.parse(text, str(path), what)


def _check_name(document: Document, name: str, path: Path) -> None:
    if name != path.stem:
        raise document.error(("name",), f"is {name}, and the file is called {path.name}")


def _fragment(name: str, profile: str) -> dict[str, str]:
    path = _files("fragments", ".config").get(name)
    if path is None:
        raise UsageError(f"profile {profile}: no fragment {name}.config")
    try:
        return kconfig.parse_strictly(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path}:{error}") from error
