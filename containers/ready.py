"""The image's HEALTHCHECK: is the service in this container ready? What keeps it from it is printed.

It imports next to nothing, for it runs every few seconds.
"""

import os
import sys
from http.client import HTTPConnection

service = HTTPConnection("127.0.0.1", int(os.getenv("AWAKEABLES_PORT", "8080")), timeout=4)
try:
    service.request("GET", "/health/ready")
    answer = service.getresponse()
    sys.stdout.write(answer.read().decode())
except OSError as error:
    sys.exit(f"no answer: {error}")
sys.exit(answer.status != 200)
