"""``relayd doctor``: is the relay at a URL one that keeps its protocol, and may the way to it be trusted?

A client, and one that promises nothing of relayd's own: it asks of a relay what the protocol asks.
"""
