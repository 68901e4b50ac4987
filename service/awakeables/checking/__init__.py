"""A static check of handlers' source: what a replay can't repeat, found before it is deployed."""
