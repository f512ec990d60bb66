"""Plans: decisions about I/O, as data: when to try again, which connection, which route."""
