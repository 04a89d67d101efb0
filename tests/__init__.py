"""Tests mirror the folders; `flows`, `chaos` and `architecture` stand beside them."""
