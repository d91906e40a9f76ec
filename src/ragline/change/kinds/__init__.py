"""The kinds of change, one file each; none knows another."""
