"""What travels: URLs, headers, bodies, models and messages. No conversation, no decision."""
