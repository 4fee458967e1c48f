// Tests of ChangeLog.
