"""One account's loop, and all accounts: started, watched, and replaced at a reload.

May import: errors, config, api, window, state.
"""
