"""Masks made from the photos themselves: from the color or the stillness of the background, a region, and the visual hull."""
