# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures come from the installed plugin, ``harness.plugin``; this is for the tests of it."""

pytest_plugins = ["pytester"]
