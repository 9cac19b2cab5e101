"""The `reges` command."""
