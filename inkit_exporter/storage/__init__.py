"""Window and totals of each account on disk, so that a restart loses nothing. SQLite, and nothing above it.

May import: errors, clock, labels, config, api, window, state.
"""
