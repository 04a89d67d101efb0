"""An example of one's own task types; see docs/task-types.md."""
