"""Every metric family, and the exposition: the text that Prometheus scrapes.

May import: clock, counters, api, window, state, storage.
"""
