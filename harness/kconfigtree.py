# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel's Kconfig files say: which option needs which others, and how to get one.

It reads the language as far as dependencies go (kconfig-language.rst): menus, ``if``
blocks, choices, ``depends on`` and ``select``. What a macro would say is unknown and
counts as met. So what is derived here is a proposal: the kernel's own
``olddefconfig`` has the last word, and what it left is read back.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_KINDS = ("bool", "tristate", "def_bool", "def_tristate", "int", "hex", "string")
_TOKEN = re.compile(r'\$\([^()]*(?:\([^()]*\)[^()]*)*\)|&&|\|\||!=|<=|>=|[!()=<>]|"[^"]*"|[\w./-]+')
_ENTRY = re.compile(r"^(?:menu)?config\s+(\w+)\s*$")
_RANK = {"n": 0, "m": 1, "y": 2}
#: What is deeper is a circle.
_DEPTH = 30


@dataclass(frozen=True, slots=True)
class Expr:
    """A condition: an option, a constant, or an operator and what it joins."""

    #: ``sym``, ``const``, ``!``, ``&&``, ``||``, or a comparison.
    operator: str
    #: Of an option or a constant.
    text: str = ""
    sides: tuple[Expr, ...] = ()

    def names(self) -> Iterator[str]:
        """Yield the options that stand in it."""
        if self.operator == "sym":
            yield self.text
        for side in self.sides:
            yield from side.names()

    def __str__(self) -> str:
        """As Kconfig writes it."""
        if not self.sides:
            return self.text
        inner = [str(side) for side in self.sides]
        if self.operator == "!":
            return f"!({inner[0]})" if self.sides[0].operator in ("&&", "||") else f"!{inner[0]}"
        if self.operator == "&&":
            inner = [f"({one})" if side.operator == "||" else one
                     for one, side in zip(inner, self.sides, strict=True)]  # fmt: skip
        gap = " " if self.operator in ("&&", "||") else ""
        return f"{gap}{self.operator}{gap}".join(inner)


#: What is always met.
ALWAYS = Expr("const", "y")


@dataclass(slots=True)
class Symbol:
    """An option: all of its definitions together."""

    name: str
    #: ``bool``, ``tristate`` or another; empty while only a condition of it was seen.
    kind: str = ""
    #: A person can set it: it has a prompt somewhere.
    prompt: bool = False
    #: One for each definition; one that is met is enough.
    conditions: list[Expr] = field(default_factory=list)
    #: Where it is defined, such as ``fs/fat/Kconfig:2``.
    place: str = ""


@dataclass(slots=True)
class Proposal:
    """What to set, without ``CONFIG_``, and what stands in the way."""

    options: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Tree:
    """The options of one kernel's source.

    Args:
        source: the top of its source tree.
        arch: whose ``arch/*/Kconfig`` counts.
    """

    def __init__(self, source: Path, arch: str = "x86") -> None:
        self.source = source
        self.symbols: dict[str, Symbol] = {}
        #: Symbol → those that select it, and under which condition.
        self.selectors: dict[str, list[tuple[str, Expr]]] = {}
        self._arch = arch
        self._seen: set[str] = set()
        self._file("Kconfig", [])

    def condition(self, name: str) -> str:
        """Return what an option depends on, for a person; empty when nothing."""
        conditions = [str(one) for one in self.symbols[name].conditions]
        return " || ".join(f"({text})" if len(conditions) > 1 else text for text in conditions)

    def explain(self, name: str, config: Mapping[str, str]) -> str:
        """Return why an option may not be what it was set to, for a person.

        Args:
            config: option → value, with ``CONFIG_``.
        """
        symbol = self.symbols.get(name)
        if symbol is None or not symbol.kind:
            return "no option of this name in this kernel"
        text = f"{symbol.place}: {symbol.kind}"
        if not symbol.prompt:
            by = sorted({selector for selector, _ in self.selectors.get(name, [])})
            text += ", no prompt" + (f"; selected by {', '.join(by[:6])}" if by else "")
        names = {one for expr in symbol.conditions for one in expr.names()}
        unmet = [
            f"{one} is {config.get(f'CONFIG_{one}', 'n')}"
            for one in sorted(names)
            if config.get(f"CONFIG_{one}", "n") == "n"
        ]
        condition = self.condition(name)
        if condition and condition != "y":
            text += f"; depends on {condition}"
        return text + (f" ({', '.join(unmet[:8])})" if unmet else "")

    def propose(self, wanted: Mapping[str, str], config: Mapping[str, str]) -> Proposal:
        """Return what has to be set for options to have the values that are wanted.

        Args:
            wanted: option → ``y`` or ``m``, without ``CONFIG_``.
            config: the configuration to start from, with ``CONFIG_``.
        """
        proposal = Proposal()
        for name, value in wanted.items():
            self._want(name, value, config, proposal, ())
        return proposal

    def _value(self, name: str, config: Mapping[str, str], proposal: Proposal) -> str:
        if name in proposal.options:
            return proposal.options[name]
        value = config.get(f"CONFIG_{name}", "n")
        return value if value in _RANK else "y"

    def _want(
        self, name: str, value: str, config: Mapping[str, str], proposal: Proposal,
        above: tuple[str, ...], *, at_least: bool = False,
    ) -> bool:  # fmt: skip
        has = self._value(name, config, proposal)
        if has == value or (at_least and _RANK[has] >= _RANK[value]):
            return True
        symbol = self.symbols.get(name)
        if name in above or len(above) > _DEPTH:
            return False
        if symbol is None or not symbol.kind:
            proposal.problems.append(f"{name}: no option of this name in this kernel")
            return False
        if symbol.kind not in ("bool", "tristate"):
            proposal.problems.append(f"{name}: is no switch but a {symbol.kind}")
            return False
        if symbol.kind == "bool" and value == "m":
            if not at_least:
                proposal.problems.append(f"{name}: can be y, but not a module")
                return False
            value = "y"
        if not symbol.prompt:
            return self._select(name, value, config, proposal, (*above, name))
        conditions = symbol.conditions or [ALWAYS]
        before = dict(proposal.options), list(proposal.problems)
        for condition in conditions:
            if self._meet(condition, value, config, proposal, (*above, name)):
                proposal.options[name] = value
                return True
            if condition is not conditions[-1]:
                proposal.options, proposal.problems = dict(before[0]), list(before[1])
        if not above or len(proposal.problems) == len(before[1]):
            proposal.problems.append(f"{name}: {self.explain(name, config)}")
        return False

    def _select(
        self, name: str, value: str, config: Mapping[str, str], proposal: Proposal,
        above: tuple[str, ...],
    ) -> bool:  # fmt: skip
        """Get an option that has no prompt: by one that selects it, nearest first."""
        place = self.symbols[name].place.rpartition("/")[0]

        def far(selector: str) -> tuple[int, bool, str]:
            has = _RANK[self._value(selector, config, proposal)]
            return (-has, self.symbols[selector].place.rpartition("/")[0] != place, selector)

        candidates = {one for one, _ in self.selectors.get(name, []) if self.symbols[one].kind}
        for selector in sorted(candidates, key=far)[:8]:
            tried = Proposal(dict(proposal.options), [])
            exact = self._want(selector, value, config, tried, above)
            if exact:
                proposal.options = tried.options
                return True
        # It may be on by default once all that it depends on is.
        for condition in self.symbols[name].conditions:
            if self._meet(condition, value, config, proposal, above):
                return True
        return False

    def _meet(
        self, expr: Expr, value: str, config: Mapping[str, str], proposal: Proposal,
        above: tuple[str, ...],
    ) -> bool:  # fmt: skip
        """Make a condition allow a value; return whether it does, as far as is known."""
        rank = _RANK[value]
        if self._evaluate(expr, config, proposal) >= rank:
            return True
        match expr.operator:
            case "&&":
                return all(self._meet(one, value, config, proposal, above) for one in expr.sides)
            case "||":
                # What is partly there is nearer than what is not.
                sides = sorted(expr.sides, key=lambda one: -self._evaluate(one, config, proposal))
                for side in sides:
                    tried = Proposal(dict(proposal.options), [])
                    if self._meet(side, value, config, tried, above):
                        proposal.options = tried.options
                        return True
            case "sym":
                return self._want(expr.text, value, config, proposal, above, at_least=True)
            case "=" if expr.sides[1].text in _RANK:
                return self._want(expr.sides[0].text, expr.sides[1].text, config, proposal, above)
        return False

    def _evaluate(self, expr: Expr, config: Mapping[str, str], proposal: Proposal) -> int:
        """Return 0, 1 or 2 for n, m or y; what is not known counts as y."""
        if expr.operator in ("&&", "||", "!"):
            sides = [self._evaluate(one, config, proposal) for one in expr.sides]
            if expr.operator == "!":
                return 2 - sides[0]
            return min(sides) if expr.operator == "&&" else max(sides)
        if expr.operator in ("=", "!=") and expr.sides[1].text in _RANK:
            same = self._value(expr.sides[0].text, config, proposal) == expr.sides[1].text
            return 2 if same == (expr.operator == "=") else 0
        if expr.operator == "sym":
            return _RANK[self._value(expr.text, config, proposal)]
        return _RANK.get(expr.text, 2) if expr.operator == "const" else 2

    # ---- reading ----

    def _file(self, name: str, outer: list[Expr]) -> None:
        name = name.replace("$(SRCARCH)", self._arch).replace("$(HEADER_ARCH)", self._arch)
        path = self.source / name
        if name in self._seen or not path.is_file():
            return
        self._seen.add(name)
        _Reader(self, name, outer).read(path.read_text(errors="replace"))


class _Reader:
    """Reads one file; blocks nest, and so do their conditions."""

    def __init__(self, tree: Tree, name: str, outer: list[Expr]) -> None:
        self.tree = tree
        self.name = name
        #: Conditions of the enclosing blocks: menu, if, choice.
        self.blocks: list[list[Expr]] = [list(outer)]
        #: What a ``depends on`` belongs to.
        self.own: list[Expr] | None = None
        self.symbol: Symbol | None = None

    def read(self, text: str) -> None:
        help_indent: int | None = None
        for number, line in _logical_lines(text):
            stripped = line.strip()
            indent = len(line.expandtabs()) - len(line.expandtabs().lstrip())
            if help_indent is not None:
                if not stripped:
                    continue
                if help_indent < 0:
                    help_indent = indent
                if indent >= help_indent and indent > 0:
                    continue
                help_indent = None
            if stripped in ("help", "---help---"):
                help_indent = -1
            elif stripped and not stripped.startswith("#"):
                self._line(stripped, number)
        self._flush()

    def _flush(self) -> None:
        """An option's conditions are complete when the next entry begins."""
        if self.symbol is not None and self.own is not None:
            joined = functools.reduce(_both, [*self._around(), *self.own], ALWAYS)
            self.symbol.conditions.append(joined)
        self.symbol, self.own = None, None

    def _around(self) -> Iterator[Expr]:
        for block in self.blocks:
            yield from block

    def _line(self, line: str, number: int) -> None:
        word, rest = [*line.split(None, 1), ""][:2]
        if match := _ENTRY.match(line):
            self._flush()
            name = match[1]
            self.symbol = self.tree.symbols.setdefault(name, Symbol(name))
            self.symbol.place = self.symbol.place or f"{self.name}:{number}"
            self.own = []
        elif word in ("menu", "choice", "if"):
            self._flush()
            self.blocks.append([parse(rest)] if word == "if" else [])
            self.own = self.blocks[-1] if word != "if" else None
        elif word in ("endmenu", "endchoice", "endif"):
            self._flush()
            if len(self.blocks) > 1:
                self.blocks.pop()
        elif word == "source":
            self._flush()
            self.tree._file(rest.strip('"'), list(self._around()))
        elif word in ("comment", "mainmenu"):
            self._flush()
            self.own = []
        elif word == "depends" and self.own is not None:
            self.own.append(parse(rest.removeprefix("on").strip()))
        elif self.symbol is not None:
            self._attribute(self.symbol, word, rest)

    def _attribute(self, symbol: Symbol, word: str, rest: str) -> None:
        if word in _KINDS:
            symbol.kind = word.removeprefix("def_")
            symbol.prompt = symbol.prompt or (not word.startswith("def_") and bool(rest))
        elif word == "prompt":
            symbol.prompt = True
        elif word == "select":
            name, _, condition = rest.partition(" if ")
            entry = (symbol.name, parse(condition) if condition else ALWAYS)
            self.tree.selectors.setdefault(name.strip(), []).append(entry)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    number, begun, held = 0, 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        begun = begun if held else number
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        yield begun, held + line
        held = ""
    if held:
        yield number, held


def _both(left: Expr, right: Expr) -> Expr:
    if left == ALWAYS:
        return right
    return left if right == ALWAYS else Expr("&&", sides=(left, right))


def parse(text: str) -> Expr:
    """Return a condition as an expression; what is not understood counts as met."""
    tokens = _TOKEN.findall(re.sub(r'(?<!["\w])#.*$', "", text))
    try:
        expr, rest = _or(tokens)
    except IndexError:
        return ALWAYS
    return expr if not rest else ALWAYS


def _or(tokens: list[str]) -> tuple[Expr, list[str]]:
    left, tokens = _and(tokens)
    while tokens and tokens[0] == "||":
        right, tokens = _and(tokens[1:])
        left = Expr("||", sides=(left, right))
    return left, tokens


def _and(tokens: list[str]) -> tuple[Expr, list[str]]:
    left, tokens = _term(tokens)
    while tokens and tokens[0] == "&&":
        right, tokens = _term(tokens[1:])
        left = _both(left, right)
    return left, tokens


def _term(tokens: list[str]) -> tuple[Expr, list[str]]:
    if tokens[0] == "!":
        inner, rest = _term(tokens[1:])
        return Expr("!", sides=(inner,)), rest
    if tokens[0] == "(":
        inner, rest = _or(tokens[1:])
        return inner, rest[1:]
    left, rest = _atom(tokens[0]), tokens[1:]
    if rest and rest[0] in ("=", "!=", "<", ">", "<=", ">="):
        return Expr(rest[0], sides=(left, _atom(rest[1]))), rest[2:]
    return left, rest


def _atom(token: str) -> Expr:
    if token.startswith("$("):
        return ALWAYS
    if token.startswith('"') or token in _RANK or token.isdigit():
        return Expr("const", token.strip('"'))
    return Expr("sym", token)
