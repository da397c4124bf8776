"""The client's side of Inkit's API: batches and pages, labels, requests and what they come to, errors.

May import: errors, clock, counters, rate_limit, jsonbody, paging, transport, labels, config.
"""
