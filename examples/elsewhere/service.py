"""The service's side of function.py: it has the rows, and none of the code."""

from __future__ import annotations

import os

from awakeables import App, RemoteService

quotes = RemoteService("quotes", url=os.environ.get("QUOTES_URL", "http://127.0.0.1:8090"))
app = App("insurance", services=[quotes])
