"""From trained weights to an exported model that is proven equal, and to predictions."""
