"""PP-LCNet toolkit: the core (backbone, configs, training, export, deployment) that every task builds on.

Importing this package is cheap and does not import Paddle. It makes PaddleClas's modules importable as
`ppcls`, and PaddleClas's `Arch: {name: PPLCNet_x1_0}` build the networks of this package.
"""

from ppcls_ext import upstream

__version__ = "0.1.0"

upstream.install()
