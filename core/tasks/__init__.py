"""Long tasks: their row, their moves, their status."""
