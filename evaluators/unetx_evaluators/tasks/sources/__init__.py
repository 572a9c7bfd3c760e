"""Layouts of data on disk."""
