"""Window and totals of each account in SQLite files, so that a restart loses nothing.

May import: errors, clock, labels, config, api, window, state.
"""
