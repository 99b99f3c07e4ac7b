"""Networks fitted to a CPU: the space of networks that a search goes through."""
