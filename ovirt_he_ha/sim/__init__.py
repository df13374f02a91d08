"""A simulated cluster: the product's own code in virtual time, over storage, leases and hypervisors that can fail."""
