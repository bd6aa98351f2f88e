"""Networks of the challenge and of those that followed it, one file each."""
