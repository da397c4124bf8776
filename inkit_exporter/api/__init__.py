"""The client's side of Inkit's API: batches and pages, labels, requests and what they come to, errors.

May import: errors, clock, counters, transport, rate_limit, jsonbody, config.
"""
