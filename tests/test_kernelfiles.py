# SPDX-License-Identifier: GPL-2.0-only
import json
import re
from pathlib import Path

import pytest

from harness import kernelfiles, kernels, store
from harness.errors import ExitStatus, UsageError
from harness.kernelfiles import DebianImage, DebianSource, Tarball, Tree
from harness.resources import data_dir

SHA = "0a" * 32


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for kind in ("kernels", "profiles", "fragments"):
        (tmp_path / kind).mkdir()
    monkeypatch.setenv("KMOD_HARNESS_IMAGES", str(tmp_path))
    return tmp_path


def kernel_file(own: Path, text: str, name: str = "mine") -> Path:
    path = own / "kernels" / f"{name}.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", sorted(p.stem for p in (data_dir("images") / "kernels").iterdir()))
def test_shipped_kernel_is_right_and_goes_with_the_default_profile(name: str) -> None:
    recipe = kernelfiles.load_recipe(name)
    assert isinstance(recipe.origin, DebianSource)
    assert recipe.is_compiled
    assert dict(recipe.options)["CONFIG_KASAN"] == "y"


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (data_dir("images") / "profiles").iterdir())
)
def test_shipped_profile_is_right_and_some_kernel_has_it(name: str) -> None:
    kernelfiles.read_profile(data_dir("images") / "profiles" / f"{name}.yaml")
    assert name in {profile for _, profile in kernelfiles.combinations()}


def test_a_kernel_of_ones_own_is_one_file(own: Path) -> None:
    kernel_file(own, f"name: '6.19'\nprovider: tarball\nurl: a.tar\nsha256: {SHA}\n", "6.19")
    assert kernelfiles.known_kernels().index("6.19") > kernelfiles.known_kernels().index("6.12")
    recipe = kernelfiles.load_recipe("6.19")
    assert isinstance(recipe.origin, Tarball)
    assert recipe.label == "6.19-kasan"
    assert ("6.19", "kasan") in kernelfiles.combinations()
    assert ("6.19", "distro") not in kernelfiles.combinations()


def test_a_kernel_is_given_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nprovider: tree\npath: linux\n")
    recipe = kernelfiles.load_recipe(str(path))
    assert isinstance(recipe.origin, Tree)
    assert (recipe.name, recipe.file) == ("mine", path)
    with pytest.raises(UsageError, match=r"kernel /nowhere/mine\.yaml: no such file"):
        kernelfiles.load_recipe("/nowhere/mine.yaml")


def test_ones_own_file_stands_before_ours(own: Path) -> None:
    kernel_file(own, f"name: '6.1'\nprovider: tarball\nurl: a.tar\nsha256: {SHA}\n", "6.1")
    assert isinstance(kernelfiles.load_recipe("6.1").origin, Tarball)


def test_folder_of_ones_own_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMOD_HARNESS_IMAGES", "/nowhere")
    with pytest.raises(UsageError, match="KMOD_HARNESS_IMAGES=/nowhere: no such folder"):
        kernelfiles.load_recipe()


GOOD = f"name: mine\nprovider: tarball\nurl: a.tar\nsha256: {SHA}\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name: mine\n", "mine.yaml:1: provider: is missing"),
        ("- a\n", "mine.yaml:1: a kernel's file is a mapping of fields"),
        ("name: [\n", "mine.yaml:2: not YAML"),
        (
            "name: mine\nprovider: debian-sauce\n",
            "mine.yaml:2: provider: 'debian-sauce' is none of debian-source, tarball, "
            "debian-image, tree; did you mean debian-source",
        ),
        ("name: mine\nprovider: [tree]\n", "mine.yaml:2: provider: "),
        ("name: mine\nprovider: tree\n", "mine.yaml:1: path: is missing"),
        (GOOD + "lack: [CONFIG_A]\n", "mine.yaml:5: lack: unknown field; did you mean lacks"),
        (GOOD + "lacks: [KASAN]\n", "mine.yaml:5: lacks[0]: "),
        (GOOD + "lacks: CONFIG_A\n", "mine.yaml:5: lacks: "),
        (GOOD.replace(SHA, "abc"), "mine.yaml:4: sha256: "),
        (GOOD.replace("mine", "yours"), "mine.yaml:1: name: is yours, and the file is called"),
        (GOOD.replace("mine", "6.10"), "mine.yaml:1: '6.10' is no text"),
        (GOOD + "distro:\n  image: i\n  headers: h\n", "mine.yaml:5: distro.suites: is missing"),
        (GOOD + "compiler: 'gcc; true'\n", "mine.yaml:5: compiler: "),
        ("name: mine\nprovider: debian-source\npackage: p\nsuites: []\n", "mine.yaml:4: suites: "),
        (GOOD + "known:\n  - {title: '(', text: b, reason: c}\n", "mine.yaml:6: known[0].title: "),
        (GOOD + "known:\n  - {title: a, text: b}\n", "mine.yaml:6: known[0].reason: is missing"),
    ],
)
def test_mistake_in_a_kernels_file_is_said_with_its_place(own: Path, text: str, why: str) -> None:
    kernel_file(own, text)
    with pytest.raises(UsageError, match=re.escape(f"{own}/kernels/{why}")) as caught:
        kernelfiles.load_recipe("mine")
    assert caught.value.exit_status is ExitStatus.USAGE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "name: mine\nfragments: [base, nothing]\n",
            "mine.yaml:2: fragments[1]: no nothing.config",
        ),
        ("name: mine\nfragment: [base]\n", "mine.yaml:2: fragment: unknown field; did you mean"),
        ("name: mine\nsteps: 0\n", "mine.yaml:2: steps: "),
        ("name: mine\narguments: ['a b']\n", "mine.yaml:2: arguments[0]: "),
    ],
)
def test_mistake_in_a_profiles_file_is_said_with_its_place(own: Path, text: str, why: str) -> None:
    (own / "profiles" / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=re.escape(f"{own}/profiles/{why}")):
        kernelfiles.load_recipe("6.1", "mine")


def test_mistake_in_a_fragment_is_said_with_its_line(own: Path) -> None:
    (own / "fragments" / "odd.config").write_text("CONFIG_A=y\n\n# a comment\nCONFIG_B\n")
    (own / "profiles" / "mine.yaml").write_text("name: mine\nfragments: [odd]\n")
    with pytest.raises(UsageError, match=r"odd\.config:4: not an option: CONFIG_B"):
        kernelfiles.load_recipe("6.1", "mine")


def test_file_that_cannot_be_read(own: Path) -> None:
    (own / "kernels" / "mine.yaml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"mine\.yaml: cannot be read"):
        kernelfiles.load_recipe("mine")


def test_what_a_series_lacks_is_left_out_unless_the_profile_is_about_it(own: Path) -> None:
    (own / "fragments" / "mine.config").write_text("CONFIG_A=y\nCONFIG_B=y\n")
    (own / "profiles" / "mine.yaml").write_text(
        "name: mine\nfragments: [mine]\nneeds: [CONFIG_B]\n"
    )
    kernel_file(own, GOOD + "lacks: [CONFIG_A]\n")
    assert kernelfiles.load_recipe("mine", "mine").options == (("CONFIG_B", "y"),)
    kernel_file(own, GOOD + "lacks: [CONFIG_B]\n")
    with pytest.raises(UsageError, match="profile mine: the kernel mine has no CONFIG_B"):
        kernelfiles.load_recipe("mine", "mine")
    assert ("mine", "mine") not in kernelfiles.combinations()


def test_profile_that_configures_does_not_go_with_a_binary(own: Path) -> None:
    kernel_file(own, "name: mine\nprovider: debian-image\nimage: i\nheaders: h\nsuites: [sid]\n")
    assert isinstance(kernelfiles.load_recipe("mine", "distro").origin, DebianImage)
    with pytest.raises(UsageError, match="Debian's binary cannot be configured") as caught:
        kernelfiles.load_recipe("mine", "kasan")
    assert caught.value.hint == "say --profile distro"


def test_profile_that_takes_a_kernel_as_it_is_needs_a_binary(own: Path) -> None:
    kernel_file(own, GOOD)
    with pytest.raises(UsageError, match="there is only its source, and the profile distro"):
        kernelfiles.load_recipe("mine", "distro")
    binary = kernelfiles.load_recipe("6.1", "distro")
    assert isinstance(binary.origin, DebianImage)
    assert not binary.is_compiled


def test_detectors_are_those_of_configuration_and_arguments() -> None:
    config = {"CONFIG_SLUB_DEBUG": "y", "CONFIG_PROVE_LOCKING": "y", "CONFIG_KASAN": "n"}
    assert kernelfiles.detectors(config, ()) == ("lockdep", "SLUB")
    assert kernelfiles.detectors(config, ("slub_debug=FZ",)) == ("lockdep", "SLUB", "SLUB poison")
    assert kernelfiles.detectors({}, ("page_poison=1",)) == ()


def test_the_default_kernel_is_named_by_the_same_inputs_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel takes minutes: whoever changes its name makes everybody build it again."""
    monkeypatch.setattr(kernels, "compiler_version", lambda program="gcc": "gcc 12")
    cache = store.Store.open(tmp_path)
    recipe = kernelfiles.load_recipe("6.1", "kasan")
    assert kernels.current_key(cache, recipe) is None
    (tmp_path / "resolved").mkdir()
    (tmp_path / "resolved" / "linux-source-6.1.json").write_text(
        '{"name": "linux-source-6.1", "version": "1", "sha256": "ab", "size_bytes": 1}'
    )
    inputs = {
        "recipe": "2",
        "name": "6.1",
        "profile": "kasan",
        "options": json.dumps(recipe.options),
        "source": "ab",
        "compiler": "gcc 12",
        "environment": json.dumps(kernels._REPRODUCIBLE),
    }
    first = kernels.current_key(cache, recipe)
    assert first == store.digest(inputs)
    monkeypatch.setattr(kernels, "compiler_version", lambda program="gcc": "gcc 13")
    assert kernels.current_key(cache, recipe) != first


# ---- options on top of a profile ----------------------------------------------------------------


def test_options_after_a_profiles_name_are_added() -> None:
    plain = kernelfiles.load_recipe("6.1", "kasan")
    more = kernelfiles.load_recipe("6.1", "kasan+ZRAM=m+BLOCK")
    assert more.profile == "kasan+BLOCK=y+ZRAM=m"
    assert more.added == ("CONFIG_BLOCK", "CONFIG_ZRAM")
    differing = dict(more.options).items() - dict(plain.options).items()
    assert {name for name, _ in differing} == {
        "CONFIG_ZRAM", "CONFIG_BLOCK", "CONFIG_LOCALVERSION",
    }  # fmt: skip
    # Modules of one must not pass for modules of the other.
    release = dict(more.options)["CONFIG_LOCALVERSION"]
    assert re.fullmatch(r'"-kasan\.[0-9a-f]{6}"', release)
    other = kernelfiles.load_recipe("6.1", "kasan+ZRAM=y+BLOCK")
    assert dict(other.options)["CONFIG_LOCALVERSION"] != release
    assert (plain.needs, plain.arguments) == (more.needs, more.arguments)


def test_one_name_for_one_set_of_options() -> None:
    same = kernelfiles.load_recipe("6.1", "kasan+BLOCK=y+CONFIG_ZRAM=m")
    assert same == kernelfiles.load_recipe("6.1", "kasan+ZRAM=m+BLOCK=y")
    assert kernelfiles.add_options("kasan+A=y", {"CONFIG_B": "m", "CONFIG_A": "n"}) == (
        "kasan+A=n+B=m"
    )


def test_profile_without_options_is_what_it_was() -> None:
    # Kernels that were built go on being found.
    assert kernelfiles.load_recipe("6.1", "kasan").added == ()
    assert dict(kernelfiles.load_recipe("6.1", "kasan").options)["CONFIG_LOCALVERSION"] == (
        '"-kasan"'
    )


def test_file_whose_name_has_a_plus(own: Path) -> None:
    (own / "profiles" / "a+b.yaml").write_text("name: a+b\nfragments: [base]\n")
    assert kernelfiles.load_recipe("6.1", "a+b").added == ()


@pytest.mark.parametrize(
    ("kernel", "profile", "why"),
    [
        ("6.1", "kasan+", "configuration option '': not of the form"),
        ("6.1", "kasan+zram=m", "'zram=m': not of the form"),
        ("6.1", "kasan+ZRAM=maybe", "not of the form"),
        ("6.1", "kasn+ZRAM=m", "profile 'kasn': unknown"),
        ("6.1", "distro+ZRAM=m", r"taken as it is, nothing can be added .*\(CONFIG_ZRAM\)"),
    ],
)
def test_options_that_cannot_be_added(kernel: str, profile: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        kernelfiles.load_recipe(kernel, profile)


def test_nothing_is_added_to_a_tree_that_somebody_built(own: Path) -> None:
    kernel_file(own, "name: mine\nprovider: tree\npath: x\n")
    with pytest.raises(UsageError, match="taken as it is"):
        kernelfiles.load_recipe("mine", "kasan+ZRAM=m")
