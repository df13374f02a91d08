"""A cluster of real daemons on one machine: hosts in namespaces, a stand-in appliance, drills, an observer."""
