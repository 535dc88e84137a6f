"""A fit on disk: its folder, checkpoints, session, outputs and report."""
