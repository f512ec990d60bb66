"""Runtimes: what really builds sandboxes and runs commands on this machine."""
