"""Builds the documentation site: pages as written, references from the code, notebooks as executed."""
