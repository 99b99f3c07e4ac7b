"""The networks behind the paper's tables."""

from __future__ import annotations

from ppcls_ext.deploy.untrained import Network
from ppcls_ext.paper.tables import Procedure, Row, Variant


def network_of_row(row: Row, procedure: Procedure, variant: Variant) -> Network:
    """The network of a row at an input size; rows of the same network give equal ones."""
    config = row.config or procedure.config
    if config is None:
        raise ValueError(f"row {row.label}: neither it nor its table's procedure names a config")
    name = row.arch or row.label.replace(" ", "_")
    overrides = tuple(o.format(arch=row.arch) for o in variant.overrides)
    return Network(f"{name}-{variant.name}", config, overrides)
