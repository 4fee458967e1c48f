// Site: see docs/ARCHITECTURE.md.
