"""Detection: PicoDet on PP-LCNet, with PaddleDetection."""
