"""What each provider's models can do: discovered, kept, copied to every process, and asked before a task is accepted."""
