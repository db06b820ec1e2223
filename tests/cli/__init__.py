"""The configuration and the command line."""
