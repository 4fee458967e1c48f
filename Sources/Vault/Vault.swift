// Vault: see docs/ARCHITECTURE.md.
