"""What tests share: waiting for a condition, a fresh database, a server of one's own."""
