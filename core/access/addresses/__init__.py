"""Whose request it is, and whom its address shuts out: proxies, bans, IP filters."""
