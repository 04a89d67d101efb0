"""Virtual keys: their text, their table, what they allow, and the copies that let them in."""
