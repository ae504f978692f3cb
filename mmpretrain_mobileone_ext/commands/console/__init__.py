"""The console script ``mobileone-ext``: the table of its commands, their parsers, their start."""
