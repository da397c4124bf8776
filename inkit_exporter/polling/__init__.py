"""One account's loop, and all accounts: started, watched, and replaced at a reload.

May import: clock, rate_limit, watchdog, config, api, window, state, storage.
"""
