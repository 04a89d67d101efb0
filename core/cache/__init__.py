"""Declared caches: memory and Redis before a loader, with statistics. See docs/caches.md."""
