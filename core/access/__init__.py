"""Who may come in, and how often. `parts.py` builds it."""
