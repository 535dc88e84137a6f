"""Estimators of where samples along rays are needed: an occupancy grid, and proposal networks."""
