"""A cluster of real daemons on one machine: namespaces, libvirtd, sanlock, a stand-in appliance, drills, an observer."""
