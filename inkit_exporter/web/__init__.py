"""An HTTP server for exporters: routes, connections, limits. It knows nothing of Inkit.

May import: errors, yamlfile.
"""
