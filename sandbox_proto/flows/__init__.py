"""Flows: operations with one outstanding question at a time, as generators."""
