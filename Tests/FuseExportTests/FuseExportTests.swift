// Tests of FuseExport.
