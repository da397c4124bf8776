"""TLS, basic auth, headers and rate limit, in the file format of Prometheus' exporter-toolkit.

May import: errors, yamlfile, web.
"""
