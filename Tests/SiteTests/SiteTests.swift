// Tests of Site.
