"""What several parts need, each once: whole files and folders, lines and words of texts, devices, progress bars."""
