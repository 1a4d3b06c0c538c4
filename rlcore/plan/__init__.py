"""What a recipe will need: bytes of memory from its config alone, and seconds from a short measurement."""
