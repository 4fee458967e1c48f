// Tests of RecoveryPoints.
