"""The networks of Tables 6 to 9, each as a change of another one."""

from __future__ import annotations

from typing import Any

from ppcls_ext.models.spec import ALL, LAST_SEVEN, LAST_TWO, NONE

HALF = "PPLCNet_x0_5"
BASE = "PPLCNet_x0_5_base"
NO_LAST = {"last_width": 0, "dropout": 0.0}
# Name -> (the network it is compared with, the fields in which it differs). Tables 6, 7, 8, 9 in turn.
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "PPLCNet_x0_5_no_hswish": (HALF, {"act": "relu"}),
    "PPLCNet_x0_5_no_se": (HALF, {"se": NONE}),
    "PPLCNet_x0_5_no_large_kernel": (HALF, {"kernel5": NONE}),
    "PPLCNet_x0_5_no_last_conv": (HALF, NO_LAST),
    "PPLCNet_x0_5_se_1100000000000": (HALF, {"se": "1100000000000"}),
    "PPLCNet_x0_5_se_0000001100000": (HALF, {"se": "0000001100000"}),
    "PPLCNet_x0_5_se_0000000000011": (HALF, {}),
    "PPLCNet_x0_5_se_1111111111111": (HALF, {"se": ALL}),
    "PPLCNet_x0_5_k5_1111111111111": (HALF, {"kernel5": ALL}),
    "PPLCNet_x0_5_k5_1111111000000": (HALF, {"kernel5": "1111111000000"}),
    "PPLCNet_x0_5_k5_0000001111111": (HALF, {}),
    BASE: (HALF, {"act": "relu", "se": NONE, "kernel5": NONE, **NO_LAST}),
    "PPLCNet_x0_5_base_hswish": (BASE, {"act": "hardswish"}),
    "PPLCNet_x0_5_base_hswish_k5": ("PPLCNet_x0_5_base_hswish", {"kernel5": LAST_SEVEN}),
    "PPLCNet_x0_5_base_hswish_k5_se": ("PPLCNet_x0_5_base_hswish_k5", {"se": LAST_TWO}),
    "PPLCNet_x0_5_no_dropout": (HALF, {"dropout": 0.0}),
}
