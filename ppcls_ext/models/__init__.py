"""Networks: PP-LCNet as data and layers, every name that `Arch` may have, weights, counting, folding, CPU kernels."""
