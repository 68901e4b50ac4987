"""What each command decides over rows: pure functions `(command, rows, now_ms, changes) -> answer`.

All reads and checks of a decision come before its first change, so that one which meets a row that
was not loaded (`NotLoaded`) is simply made again. Nothing in here reads a journal, a clock or a
database.
"""
