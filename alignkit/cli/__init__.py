"""The command line: one file a command, thin, lazy imports."""
