"""WhatsApp as a channel: a program of its own around neonize, which speaks `channel.wire` with the host."""
