"""Loops over float32 arrays that Numba compiles for the processor at hand.

Every kernel is called with `start` and `end` of its first argument's parts, and computes each part alone: what it gives
does not depend on how many threads there are. Sums over parts are taken afterwards, in one order.
"""
