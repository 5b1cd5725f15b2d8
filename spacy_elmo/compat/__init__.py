"""Modules with the calls of other libraries."""
