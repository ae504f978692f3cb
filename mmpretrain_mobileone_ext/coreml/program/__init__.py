"""A saved Core ML file as data: read, checked, and rewritten."""
