"""The parts of an export that no format decides."""
