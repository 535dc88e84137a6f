"""Shading of surfaces: surface points at every pixel, lights, and materials.

A *material* is a function of a :class:`~unrender.shading.gbuffer.GBuffer` and the lights that returns color and opacity per pixel. Those of
:mod:`unrender.shading.materials` are small frozen dataclasses; a plain function works too. All colors are linear light.
"""
