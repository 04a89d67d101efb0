"""Limits of requests, tokens and tasks: all that one request must pass is one decision."""
