// RecoveryPoints: see docs/ARCHITECTURE.md.
