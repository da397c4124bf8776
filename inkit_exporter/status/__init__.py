"""The status report (JSON), and the page that shows it.

May import: clock, api, window, state.
"""
