"""Handlers elsewhere: what serves an app's handlers as a function, and what invokes them over HTTP.

    service                                        function
    RemoteAttempts ── POST, an AdvanceRequest ──▶  Function
                   ◀── a Progress ───────────────

The function's side is `asgi.py`, `awslambda.py`, `responder.py` and `function.py`; with what both share,
`messages.py` and `signing.py`, it loads neither Kafka nor a store. The service's side is `attempts.py`,
`functions.py`, `client.py` and `described.py`.
"""

from awakeables.remote.asgi import asgi
from awakeables.remote.awslambda import lambda_handler

__all__ = ["asgi", "lambda_handler"]
