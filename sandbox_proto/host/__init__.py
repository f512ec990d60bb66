"""The pure half of a sandbox host: what it decides, without doing any of it."""
