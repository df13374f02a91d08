"""Facts about the agent."""
