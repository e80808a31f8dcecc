"""Recipes: a config is a claim, and what can be wrong in one is found before anything is built."""
