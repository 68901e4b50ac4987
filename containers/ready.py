"""The image's HEALTHCHECK: is what runs in this container ready? What keeps it from it is printed.

`ready.py` asks a service; `ready.py PORT` a worker, whose AWAKEABLES_METRICS_PORT that is. It imports
next to nothing, for it runs every few seconds.
"""

import os
import sys
from http.client import HTTPConnection

port = sys.argv[1] if len(sys.argv) > 1 else os.getenv("AWAKEABLES_PORT", "8080")
asked = HTTPConnection("127.0.0.1", int(port), timeout=4)
try:
    asked.request("GET", "/health/ready")
    answer = asked.getresponse()
    sys.stdout.write(answer.read().decode())
except OSError as error:
    sys.exit(f"no answer: {error}")
sys.exit(answer.status != 200)
