"""The paper's tables as data, and the same measured on this machine."""
