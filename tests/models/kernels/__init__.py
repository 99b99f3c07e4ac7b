"""Tests of `ppcls_ext.models.kernels`."""
