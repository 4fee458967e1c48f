// DiskImage: see docs/ARCHITECTURE.md.
