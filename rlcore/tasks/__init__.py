"""Task sets: files and hub data sets, made-up problems, raw text."""
