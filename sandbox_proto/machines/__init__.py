"""Machines: pure state machines for conversations in which either side may speak."""
