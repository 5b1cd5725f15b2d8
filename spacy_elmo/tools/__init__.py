"""The work behind the commands, one module a command."""
