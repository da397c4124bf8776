"""One account's loop, and all accounts: started, watched, and replaced at a reload.

May import: clock, config, api, window, state.
"""
