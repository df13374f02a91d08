"""The command line: one module per family of verbs, imported only when one of its verbs is asked for."""
