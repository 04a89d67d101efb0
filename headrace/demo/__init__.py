"""The demonstration: a mixed batch of tasks on real servers, each announced with how it is to end."""
