"""Changes: everything made different on purpose goes through one gated loop, with one ledger."""
