# The service, the worker SDK and the CLI, for anybody's app: docs/operations.md, "Containers".
#
# 3.13 is what Debian stable ships, so it can be had also where no image registry is in reach:
# the image that is tested there has the Python of the one that runs elsewhere.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS builder
# A package index of your own; without one pip asks its default.
ARG PIP_INDEX_URL
WORKDIR /build

# First what seldom changes. Wheels only: the final stage has no compiler to have been missed.
COPY requirements/runtime.txt requirements/build.txt requirements/
RUN python -m venv --without-pip /opt/awakeables \
 && pip --python /opt/awakeables install --no-cache-dir --require-hashes --only-binary :all: \
      -r requirements/runtime.txt \
 && pip install --no-cache-dir --require-hashes --only-binary :all: \
      --target /opt/builder -r requirements/build.txt

COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY service service
RUN PYTHONPATH=/opt/builder PATH="/opt/builder/bin:$PATH" \
    pip --python /opt/awakeables install --no-deps --no-index --no-build-isolation .


FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="awakeables" \
      org.opencontainers.image.description="Durable callbacks over Kafka" \
      org.opencontainers.image.licenses="Apache-2.0"

# A number that no user of the host has, and that Kubernetes' runAsNonRoot can check.
RUN install -d -o 10001 -g 10001 /app && install -d -m 700 -o 10001 -g 10001 /var/lib/awakeables
COPY --from=builder /opt/awakeables /opt/awakeables
COPY containers/ready.py /opt/awakeables/ready.py

# 0.0.0.0 because a published port never reaches a container's loopback; beyond loopback the
# service starts only with AWAKEABLES_TOKENS_FILE, or AWAKEABLES_INSECURE=1.
ENV PATH=/opt/awakeables/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    AWAKEABLES_HOST=0.0.0.0 \
    AWAKEABLES_STORE=/var/lib/awakeables/awakeables.db \
    AWAKEABLES_LOG_FORMAT=json

USER 10001:10001
# Modules are looked for here first: `serve shop:app` is /app/shop.py.
WORKDIR /app
VOLUME /var/lib/awakeables
EXPOSE 8080
# What `serve` drains on.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-I", "/opt/awakeables/ready.py"]
ENTRYPOINT ["awakeables"]
CMD ["--help"]
