"""`pplcnet ...` whose batch norms use their running statistics in training, too: then a batch may be cut in parts."""

import sys
from typing import Any

from paddle import nn

import ppcls_ext  # noqa: F401  (before Paddle, whose warnings it silences)
from ppcls_ext.cli import main

make = nn.BatchNorm2D.__init__


def make_frozen(self: nn.BatchNorm2D, *arguments: Any, **named: Any) -> None:
    make(self, *arguments, **{**named, "use_global_stats": True})


nn.BatchNorm2D.__init__ = make_frozen

if __name__ == "__main__":
    sys.exit(main())
