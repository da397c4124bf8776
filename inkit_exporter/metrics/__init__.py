"""Every metric family, and the exposition: the text that Prometheus scrapes.

May import: counters, api, window, state.
"""
