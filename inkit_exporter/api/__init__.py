"""The client's side of Inkit's API: batches and pages, labels, requests, errors, the rate limit.

May import: errors, clock, counters, transport, jsonbody, config.
"""
