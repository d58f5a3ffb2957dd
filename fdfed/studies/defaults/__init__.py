"""The study that picks the library's defaults."""
