// Tests of VirtualDisk.
