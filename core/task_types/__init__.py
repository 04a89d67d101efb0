"""Task types: one file a type, its spec and its input model. Handlers live in `workers/handlers/`."""
