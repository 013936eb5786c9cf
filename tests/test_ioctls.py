# SPDX-License-Identifier: GPL-2.0-only
"""Requests in a module's code, with a handler that the compiler has made."""

import shutil
import subprocess
from pathlib import Path

import pytest

from harness import ioctls

# include/uapi/linux/watchdog.h and linux/fs.h name them: WDIOC_GETSUPPORT, WDIOC_SETTIMEOUT,
# FS_IOC_GETFLAGS, and one without an argument, RTC_AIE_ON of linux/rtc.h.
HANDLER = """
#include <linux/fs.h>
#include <linux/rtc.h>
#include <linux/watchdog.h>

long handle(unsigned int request)
{
	switch (request) {
	case WDIOC_GETSUPPORT: return 11;
	case WDIOC_SETTIMEOUT: return 21;
	case FS_IOC_GETFLAGS: return 31;
	case RTC_AIE_ON: return 41;
	}
	return request == 0x80000000 || request == 1000000 ? -22 : -25;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
# The kernel is not compiled without optimisation, where numbers are compared with in memory.
@pytest.mark.parametrize("optimised", ["-O2", "-Os"])
def test_handlers_requests_are_found(tmp_path: Path, optimised: str) -> None:
    (tmp_path / "m.c").write_text(HANDLER)
    ko = tmp_path / "m.ko"
    subprocess.run(["gcc", optimised, "-fno-jump-tables", "-c", "m.c", "-o", str(ko)],
                   cwd=tmp_path, check=True)  # fmt: skip
    # _IOC(direction, type, number, size) by hand: 2 is read, 3 both; 40, 4 and 8 bytes.
    wanted = {2 << 30 | 40 << 16 | ord("W") << 8, 3 << 30 | 4 << 16 | ord("W") << 8 | 6,
              2 << 30 | 8 << 16 | ord("f") << 8 | 1, ord("p") << 8 | 1}  # fmt: skip
    found = ioctls.read_requests(ko)
    # A compiler may compare with the number before, too, which is as good as any other.
    assert wanted <= set(found)
    assert not {0x80000000, 1000000} & set(found)


@pytest.mark.parametrize(
    ("number", "like"),
    [
        (0x5401, True),
        (0x1261, False),
        (0x80081272, True),
        (0xFFFFFFFF, False),
        (0xFFFFF000, False),
        (0x40000000, False),
        (0x00010000, False),
    ],
)
def test_numbers_that_look_like_requests(number: int, like: bool) -> None:
    assert ioctls.looks_like_request(number) is like
