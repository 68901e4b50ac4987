"""Decides each command over rows: pure functions `(command, rows, now_ms, changes) -> reply`.

A decision makes all its reads and checks before its first change, so one that meets a row that is not
loaded (`NotLoaded`) can simply be repeated. Nothing here reads a journal, a clock or a database.
"""
