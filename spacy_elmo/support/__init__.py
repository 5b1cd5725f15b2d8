"""Helpers that several packages need: whole files and folders, lines and words of texts, devices, progress bars."""
