"""Training: the loop, optimizers, averaging, precision, freezing, distillation, and exact resume."""
