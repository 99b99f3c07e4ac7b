"""How fast exported models run on this machine, in figures that can be compared."""
