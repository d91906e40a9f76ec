"""The doctor: rows in, findings out. It looks at nothing itself."""
