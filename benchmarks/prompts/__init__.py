"""What judges are told; see README.md for where the words come from."""
