"""Segmentation: DeepLabV3+ on PP-LCNet, with PaddleSeg."""
