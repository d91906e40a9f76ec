"""What is seen of work while it is done: spans of time, and what models take."""
