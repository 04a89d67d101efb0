"""What each provider's models can do: discovered, kept, copied to every process, asked before a task is accepted."""
