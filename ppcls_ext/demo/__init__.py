"""What the demos of the three tasks have in common."""
