// FuseExport: see docs/ARCHITECTURE.md.
