"""Handlers elsewhere: what serves an app's handlers as a function, and what invokes them over HTTP.

    service                                        function
    RemoteAttempts ── POST, an AdvanceRequest ──▶  Function
                   ◀── a Progress ───────────────

The function's side is `asgi.py`, `awslambda.py`, `responder.py` and `function.py`; with what both share,
`messages.py` and `signing.py`, it loads neither Kafka nor a store. The service's side is `attempts.py`,
`functions.py`, `client.py` and `described.py`; `transport.py` and `lambdainvoke.py` send its requests,
`auth.py` and `aws.py` authenticate them.
"""

from awakeables.remote.asgi import asgi
from awakeables.remote.auth import AuthFailed, BearerToken
from awakeables.remote.aws import AwsIam
from awakeables.remote.awslambda import lambda_handler

__all__ = ["AuthFailed", "AwsIam", "BearerToken", "asgi", "lambda_handler"]
