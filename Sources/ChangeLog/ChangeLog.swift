// ChangeLog: see docs/ARCHITECTURE.md.
