"""Schedules: what is due when, the rows that say so, and what firing them does."""
