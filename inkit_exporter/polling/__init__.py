"""One account's loop, and all accounts: started, watched, and replaced at a reload.

May import: config, api, window, state.
"""
