"""The promises held against rows: pure checks, which `awakeables verify` and the simulation share.

They hold after every commit, whether or not a service runs. Each check takes what belongs together (a row,
a row with its journal) and yields violations.
"""
