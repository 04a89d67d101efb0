"""The embedded PostgreSQL and Valkey. Standard library only: the keeper runs without our environment."""
