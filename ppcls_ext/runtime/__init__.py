"""Running an exported model: engines, and what goes around a network. Imports no training framework."""
