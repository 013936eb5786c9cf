# SPDX-License-Identifier: GPL-2.0-only
"""The make targets of a kernel of a few files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

#: What each option depends on, and what it selects.
DEPENDS = {
    "POOL_FS": ("BLOCK",), "APOOL": ("BLOCK", "MISC"), "BPOOL": ("BLOCK", "MISC"),
    "POOL_TEST": ("KUNIT",), "LIBHELP": (), "BLOCK": (), "MISC": (), "NIC": ("NET",), "NET": (),
}  # fmt: skip
SELECTS = {"APOOL": "POOL_FS", "BPOOL": "POOL_FS"}
KNOWN = {*DEPENDS, "TINY", "SMP", "MODULE_UNLOAD", "LOCALVERSION", "KUNIT", "A_STRING"}


def read_config(build: Path) -> dict[str, str]:
    text = (build / ".config").read_text()
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.MULTILINE))


def olddefconfig(build: Path) -> None:
    config = {name: value for name, value in read_config(build).items() if name in KNOWN}
    changed = True
    while changed:
        changed = False
        for name in list(config):
            if any(config.get(needed, "n") == "n" for needed in DEPENDS.get(name, ())):
                del config[name]
                changed = True
    for name, selected in SELECTS.items():
        if name in config:
            config.setdefault(selected, config[name])
    lines = (f"CONFIG_{name}={value}\n" for name, value in sorted(config.items()))
    (build / ".config").write_text("".join(lines))


def objects(folder: Path, config: dict[str, str]) -> list[tuple[Path, str, str, list[str]]]:
    """Ask make what a folder's file says: y or m, name, parts."""
    file = next(folder / name for name in ("Kbuild", "Makefile") if (folder / name).is_file())
    stub = "".join(f"CONFIG_{name}={value}\n" for name, value in config.items())
    stub += f"PWD := {config.get('PWD', folder)}\nsrc := {folder}\nobj := {folder}\n"
    stub += f"KERNELRELEASE := 9.8.7\ninclude {file}\n"
    stub += "$(foreach k,y m,$(foreach o,$(obj-$(k)),$(info $(k) $(o) "
    stub += "$(patsubst %.o,%,$($(basename $(o))-objs) $($(basename $(o))-y)))))\n"
    stub += "$(info flags $(ccflags-y))\nall:;@:\n"
    done = subprocess.run(
        ["make", "-s", "-f", "-", "all"], input=stub, cwd=folder, capture_output=True,
        env={"PATH": os.environ["PATH"]}, text=True,
    )  # fmt: skip
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise SystemExit(2)
    *lines, flags = done.stdout.splitlines()
    found = []
    for line in lines:
        kind, name, *parts = line.split()
        if name.endswith("/"):
            found += objects(folder / name, config)
        else:
            found.append((folder, kind, name.removesuffix(".o"), [*parts], flags.split()[1:]))
    return found


def compile_all(top: Path, build: Path, place: Path, config: dict[str, str]) -> int:
    release = (build / "include/config/kernel.release").read_text().strip()
    known = {}
    symvers = build / "Module.symvers"
    for line in symvers.read_text().splitlines() if symvers.is_file() else ():
        _, symbol, where, *_ = line.split("\t")
        known[symbol] = where
    made, status = [], 0
    for folder, kind, name, parts, flags in objects(place, config):
        sources = [folder / f"{part}.c" for part in parts or [name]]
        out = (build / folder.relative_to(top) if place == top else folder) / name
        out.parent.mkdir(parents=True, exist_ok=True)
        parts_o = []
        for source in sources:
            part = out.parent / f"{source.stem}.part.o"
            status |= subprocess.run(
                ["gcc", "-c", "-g", "-fno-pic", "-ffreestanding", f"-I{top}/include", "-include",
                 f"{top}/include/linux/kernel.h", *flags, "-o", str(part), str(source)],
                cwd=place,
            ).returncode  # fmt: skip
            parts_o.append(part)
            for symbol in re.findall(r"EXPORT_SYMBOL(?:_GPL)?\((\w+)\)", source.read_text()):
                where = str(out.relative_to(build)) if place == top else str(out)
                known[symbol] = where if kind == "m" else "vmlinux"
        if kind == "m":
            made.append((out, parts_o))
    if status:
        return 2
    for out, parts in made:
        needs = {}
        nm = subprocess.run(["nm", "-u", *map(str, parts)], capture_output=True, text=True)
        own = subprocess.run(
            ["nm", "--defined-only", *map(str, parts)], capture_output=True, text=True
        )
        for symbol in dict.fromkeys(re.findall(r"U (\w+)", nm.stdout)):
            if re.search(rf" {symbol}$", own.stdout, re.MULTILINE):
                continue
            if symbol not in known:
                print(f'ERROR: modpost: "{symbol}" [{out}.ko] undefined!', file=sys.stderr)
                status = 2
            elif known[symbol] not in ("vmlinux", str(out)):
                needs[Path(known[symbol]).name] = None
        info = out.with_suffix(".modinfo.c")
        fields = (f"name={out.name.replace('-', '_')}", f"vermagic={release} SMP mod_unload ",
                  f"depends={','.join(needs)}")  # fmt: skip
        info.write_text("".join(
            f'static const char f{n}[] __attribute__((section(".modinfo"), used)) = "{field}";\n'
            for n, field in enumerate(fields)
        ))  # fmt: skip
        subprocess.run(["gcc", "-c", "-o", f"{info}.o", str(info)], check=True)
        ko = out.with_name(f"{out.name}.ko")
        subprocess.run(["ld", "-r", "-o", str(ko), *map(str, parts), f"{info}.o"], check=True)
    if status == 0 and place == top:
        lines = (f"0x0\t{symbol}\t{where}\tEXPORT_SYMBOL\t\n" for symbol, where in known.items())
        symvers.write_text("".join(lines))
    return status


def main(top: Path, build: Path, target: str, *words: str) -> int:
    told = dict(word.split("=", 1) for word in words)
    if target == "tinyconfig":
        (build / ".config").write_text("CONFIG_TINY=y\nCONFIG_SMP=y\nCONFIG_MODULE_UNLOAD=y\n")
        (build / "Makefile").write_text(f"include {top}/Makefile\n")
        (build / "source").symlink_to(top)
    elif target == "olddefconfig":
        olddefconfig(build)
    elif target == "bzImage":
        for folder in ("arch/x86/boot", "include/config", "scripts/mod"):
            (build / folder).mkdir(parents=True, exist_ok=True)
        (build / "arch/x86/boot/bzImage").write_text("kernel\n")
        (build / "scripts/mod/modpost").touch()
        local = read_config(build).get("LOCALVERSION", "").strip('"')
        (build / "include/config/kernel.release").write_text(f"9.8.7{local}\n")
    elif target == "modules":
        config = read_config(build) | {
            name.removeprefix("CONFIG_"): value for name, value in told.items() if name != "M"
        }
        return compile_all(top, build, Path(told["M"]) if "M" in told else top, config)
    else:
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]), *sys.argv[3:]))
