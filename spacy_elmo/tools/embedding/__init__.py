"""The parts of `tools/embed.py`: the text, the windows on it, the spool, the output files, Ray."""
