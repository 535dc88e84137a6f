"""Writers of captures: the layouts of other programs, from a capture in any format that is read."""
