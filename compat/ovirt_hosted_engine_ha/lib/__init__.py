"""Errors, and the way to vdsm."""
