"""What ways to a quantized file are worth: trained, exported and scored, by method and seed."""
