"""Keys of hosted-engine.conf."""

HEVMID = "vmid"  # UUID of the engine VM
