# syntax=docker/dockerfile:1
FROM docker.io/library/python:3.13-slim-trixie AS build

COPY requirements.txt /
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary=:all: --require-hashes --requirement /requirements.txt
COPY exporter.py /opt/inkit-exporter/
COPY inkit_exporter /opt/inkit-exporter/inkit_exporter
RUN /opt/venv/bin/python -m compileall -q /opt/inkit-exporter

FROM docker.io/library/python:3.13-slim-trixie

ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="inkit-exporter" \
      org.opencontainers.image.description="A Prometheus exporter for Inkit's batches" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/inkit-exporter/inkit-exporter" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The exporter installs nothing, so pip only adds vulnerabilities to find. The folder is for a volume with --storage.path:
# Docker gives a new volume the owner of the folder below it.
RUN find / -xdev \( -name pip -o -name 'pip[-0-9]*' -o -name ensurepip \) -prune -exec rm -rf {} + \
    && install -d -o 65534 -g 65534 -m 700 /var/lib/inkit-exporter
COPY --from=build /opt /opt
COPY LICENSE /opt/inkit-exporter/

ENV INKIT_EXPORTER_REVISION="${REVISION}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root. The file system may be read-only.
USER 65534:65534
WORKDIR /opt/inkit-exporter
EXPOSE 10465
# Never through a proxy: Docker may set `http_proxy` in every container.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["/opt/venv/bin/python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:10465/-/healthy', timeout=4)"]
ENTRYPOINT ["/opt/venv/bin/python", "/opt/inkit-exporter/exporter.py"]
