"""The version of the package, for reports and exports; setup.py reads it too."""

__version__ = "0.1.0"
