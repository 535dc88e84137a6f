"""What is wrong with a capture, measured before a fit: cameras against photos, masks against cameras, photos against each other."""
