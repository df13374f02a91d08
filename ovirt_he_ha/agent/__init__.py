"""The agent: collect, decide, act, publish."""
