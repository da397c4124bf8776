"""The status report (JSON), and the page that shows it.

May import: clock, counters, api, window, state, storage.
"""
