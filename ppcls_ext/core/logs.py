"""The log of what may run in production, which leaves it to the caller to show it; commands do (`display.show_log`)."""

from __future__ import annotations

import logging

LOGGER = "pplcnet"

log = logging.getLogger(LOGGER)
