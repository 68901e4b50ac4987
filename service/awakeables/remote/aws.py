"""Requests that are signed with AWS' credentials, which botocore finds, renews and signs with."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from awakeables.core.texts import described
from awakeables.errors import DeclarationError
from awakeables.extras import extra
from awakeables.remote.auth import AuthFailed

_HOSTS: Final = (
    (re.compile(r"[^.]+\.lambda-url\.([a-z0-9-]+)\.on\.aws"), "lambda"),
    (re.compile(r"[^.]+\.execute-api\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"), "execute-api"),
)
"""Whose addresses have the region in them: function URLs and API Gateway."""


class AwsIam:
    """Signs requests with AWS' credentials (Signature Version 4), for authentication of type `AWS_IAM`.

    The credentials are found as by all of AWS' tools: in the environment, in files, by the role of the task
    or of the machine; they are renewed before they expire. They need `lambda:InvokeFunctionUrl` for a
    function URL, `lambda:InvokeFunction` for Lambda's Invoke, and `execute-api:Invoke` for API Gateway.
    """

    def __init__(self, *, region: str | None = None, service: str | None = None) -> None:
        """Sign for a service in a region.

        Args:
            region: Where the function is; None: as its URL says.
            service: `lambda` or `execute-api`; None: as its URL says. Both are needed for a domain of your
                own.

        Raises:
            DeclarationError: Only one of them is given.
        """
        if (region is None) != (service is None):
            raise DeclarationError("AwsIam takes both region= and service=, or reads both from the URL")
        self._lock = threading.Lock()
        self._session: Any = None
        self._scope = None if region is None or service is None else (service, region)

    async def headers(self, method: str, url: str, body: bytes) -> Mapping[str, str]:
        """The headers that sign a request.

        Raises:
            AuthFailed: There are no credentials, or the URL doesn't say for what to sign.
            MissingDependency: botocore is not installed.
        """
        service, region = self._scope or _scope_of(url)
        return await asyncio.to_thread(self._signed, service, region, method, url, body)

    def _signed(self, service: str, region: str, method: str, url: str, body: bytes) -> dict[str, str]:
        credentials = self._credentials()
        if credentials is None:
            raise AuthFailed("there are no AWS credentials: set them as for AWS' own tools")
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(method=method, url=url, data=body)
        SigV4Auth(credentials, service, region).add_auth(request)
        return dict(request.headers.items())

    def _credentials(self) -> Any:
        """The current ones; botocore keeps them, and renews them."""
        with self._lock:
            if self._session is None:
                self._session = botocore_session()
            try:
                found = self._session.get_credentials()
                return None if found is None else found.get_frozen_credentials()
            except Exception as error:  # credential providers have no class in common for what they raise
                raise AuthFailed(f"AWS credentials can't be had: {described(error)}") from error


def _scope_of(url: str) -> tuple[str, str]:
    host = urlsplit(url).hostname or ""
    for pattern, service in _HOSTS:
        found = pattern.fullmatch(host)
        if found is not None:
            return service, found[1]
    raise AuthFailed(
        f"{host} is no function URL and no address of API Gateway: say region= and service= of AwsIam"
    )


def botocore_session() -> Any:
    """A new session.

    Raises:
        MissingDependency: botocore is not installed.
    """
    with extra("aws", "functions in AWS need"):
        from botocore.session import Session
    return Session()
