"""The client's side of Inkit's API: batches and pages, labels, requests, errors, the rate limit.

May import: errors, counters, transport, jsonbody, config.
"""
