"""A report as data, as one HTML page and as Markdown."""
