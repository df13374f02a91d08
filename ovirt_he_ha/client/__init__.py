"""The way to the broker for the agent, the command line and other programs."""
