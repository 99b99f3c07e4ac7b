"""The log of what may run in production: a library only writes it, commands show it (`display.shown_log`)."""

from __future__ import annotations

import logging

log = logging.getLogger("pplcnet")
