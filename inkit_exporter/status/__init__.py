"""The status report (JSON), and the page that shows it.

May import: api, window, state.
"""
