# SPDX-License-Identifier: GPL-2.0-only
"""Unload kernel modules under everything that may still be using them."""

__version__ = "0.1.0"
