"""Bulk reconstruction: stages as Ray Data callables, row schema, writers, the run itself."""
