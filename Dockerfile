# syntax=docker/dockerfile:1
FROM docker.io/library/python:3.13-slim-bookworm AS build

COPY requirements.txt /
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /requirements.txt \
    && /opt/venv/bin/pip uninstall --yes pip
COPY exporter.py /opt/inkit-exporter/
COPY inkit_exporter /opt/inkit-exporter/inkit_exporter
RUN /opt/venv/bin/python -m compileall -q /opt/inkit-exporter

FROM docker.io/library/python:3.13-slim-bookworm

ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="inkit-exporter" \
      org.opencontainers.image.description="A Prometheus exporter for Inkit's workflow batches" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/inkit-exporter/inkit-exporter" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /opt /opt
COPY LICENSE /opt/inkit-exporter/

ENV INKIT_EXPORTER_REVISION="${REVISION}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# By number, so that Kubernetes can see that it is not root. Nothing is written: the file system may be read-only.
USER 65534:65534
WORKDIR /opt/inkit-exporter
EXPOSE 10465
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["/opt/venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:10465/-/healthy', timeout=4)"]
ENTRYPOINT ["/opt/venv/bin/python", "/opt/inkit-exporter/exporter.py"]
