"""Tests mirror the folders. This file makes `tests.core` and the like packages of their own, apart from ours."""
