"""The SQLite sink: one file, the standard library, the same promises as a cluster."""
