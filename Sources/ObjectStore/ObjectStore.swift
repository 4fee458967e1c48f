// ObjectStore: see docs/ARCHITECTURE.md.
