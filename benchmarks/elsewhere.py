"""The callback cycle as a function, and a service that has it elsewhere and in itself."""

from __future__ import annotations

import os

from awakeables import App, RemoteService, Service
from awakeables.remote import asgi
from benchmarks.cycle import NAME, bench, cycle

KEY = "BENCH_FUNCTION_KEY"
URL = "BENCH_FUNCTION_URL"

elsewhere = Service("elsewhere")
elsewhere.handler()(cycle)

function = asgi(App("functions", services=[elsewhere]), keys=[os.environ[KEY]])  # noqa: TID251 - a server imports this
app = App(NAME, services=[bench, RemoteService("elsewhere", url=os.environ[URL])])  # noqa: TID251 - as above
