"""Lists that come in pages, from any API: what pages say of their list, and what requests can do without.

May import: jsonbody.
"""
