"""Untrained networks by name, for the benchmark: how fast one is does not depend on its weights."""

from __future__ import annotations

from pathlib import Path

from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError
from ppcls_ext.deploy.export import chosen_formats
from ppcls_ext.deploy.untrained import BATCH, CONFIG, Network, build, network_of_spec
from ppcls_ext.models.network_spec import parse_spec


def network_of_name(network: str) -> Network:
    """The network of a name of `Arch`, or of the text of a spec.

    Raises:
        UserError: a text that is no spec.
    """
    if "|" not in network:
        return Network(network, CONFIG, (f"Arch.name={network}", BATCH))
    try:
        return network_of_spec(parse_spec(network))
    except ValueError as error:
        raise UserError(f"--network: {error}") from error


def export_untrained(network: str, work: Path) -> Path:
    """Build the network in every format in a folder of `work`, or find it there; gives the folder.

    Raises:
        UserError: an unknown name, or a text that is no spec.
    """
    found = network_of_name(network)
    built = build(found, work, chosen_formats(None))
    say(f"{found.name}: {built.params / 1e6:.2f} M parameters, {built.flops / 1e6:.0f} M multiply-adds")
    return work / found.name
