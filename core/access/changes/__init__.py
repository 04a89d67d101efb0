"""How every process hears that a right changed, and whether it knows enough (law 6)."""
