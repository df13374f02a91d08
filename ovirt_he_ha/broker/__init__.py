"""The broker: this host's contact with the world, served as XML-RPC on a Unix socket."""
