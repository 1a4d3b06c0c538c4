"""Recipes: their schema, how they are read and checked, and how sections become objects."""
