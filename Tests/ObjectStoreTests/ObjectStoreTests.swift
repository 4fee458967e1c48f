// Tests of ObjectStore.
