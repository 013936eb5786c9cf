# SPDX-License-Identifier: GPL-2.0-only
"""A program as a regression test for a module's own repository. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from harness import asscenario
from harness.program import Program

#: Seeds that the test tries; the first is the one that shows the finding.
SEEDS: Final = 4


def write(
    program: Program,
    title: str,
    *,
    lane: str,
    variant: str,
    kernel: str,
    modules: Mapping[str, str],
) -> str:
    """Return a test file: it fails as long as the module shows anything.

    Args:
        title: of the finding that it was made from.
        modules: see :func:`asscenario.document`.

    Raises:
        UsageError: the program holds what no scenario says.
    """
    about = f"Regression test: {title}"
    fields = asscenario.document(program, about, lane, modules)
    name = re.sub(r"\W+", "_", title.lower()).strip("_")[:60]
    scenario = asscenario.text(fields)
    # Only a title may have a backslash, and it means nothing else by it.
    return f'''"""{_quoted(about.replace(chr(92), 2 * chr(92)))}

Found on kernel {kernel}, lane {lane}. Put this file beside the module's Kbuild, or
set MODULE; kmod-harness brings the fixture.
"""

from pathlib import Path

import pytest

MODULE = Path(__file__).parent
VARIANT = {json.dumps(variant)}

SCENARIO = r"""
{_quoted(scenario)}"""


@pytest.mark.vm
@pytest.mark.parametrize("seed", range({program.seed}, {program.seed + SEEDS}))
def test_{name}(run_scenario, tmp_path, seed):
    plan = tmp_path / "{re.sub(r"[^a-z0-9-]", "-", program.name)}.yaml"
    plan.write_text(SCENARIO)
    run_scenario(MODULE, str(plan), seed=seed, lane="{lane}", variant=VARIANT)
'''


def _quoted(text: str) -> str:
    # Nothing of it may end the string that it stands in.
    return text.replace('"""', "'''")
