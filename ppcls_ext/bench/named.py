"""Untrained networks by name, for the benchmark: how fast one is does not depend on its weights."""

from __future__ import annotations

from pathlib import Path

from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError
from ppcls_ext.deploy.export import chosen_formats
from ppcls_ext.deploy.untrained import Network, build
from ppcls_ext.models.factory import SEARCHED
from ppcls_ext.models.network_spec import parse_spec

CONFIG = "PPLCNet_x1_0"  # networks take the images of this config, 224 x 224, or the size that a text says
BATCH = "Export.batch=1"  # what is counted and timed of every network is one image


def network_of(network: str) -> Network:
    """The network of a name of `Arch`, or of the text of a spec.

    Raises:
        UserError: a text that is no spec.
    """
    if "|" not in network:
        return Network(network, CONFIG, (f"Arch.name={network}", BATCH))
    try:
        spec = parse_spec(network)
    except ValueError as error:
        raise UserError(f"--network: {error}") from error
    size = f"Global.image_shape=[3,{spec.input_size},{spec.input_size}]"
    return Network(spec.name, CONFIG, (f"Arch={{name: {SEARCHED}, arch: {spec.text}, class_num: 1000}}", size, BATCH))


def build_named(network: str, work: Path) -> Path:
    """Build the network in every format in a folder of `work`, or find it there; gives the folder.

    Raises:
        UserError: an unknown name, or a text that is no spec.
    """
    found = network_of(network)
    built = build(found, work, chosen_formats(None))
    say(f"{found.name}: {built.params / 1e6:.2f} M parameters, {built.flops / 1e6:.0f} M multiply-adds")
    return work / found.name
