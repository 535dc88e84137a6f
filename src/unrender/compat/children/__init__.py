"""The folder on ``PYTHONPATH`` of child processes."""
