"""The recent batches, which pages to ask for, and running totals. Pure: no I/O, no clock, no asyncio.

May import: counters, paging, config, api.
"""
