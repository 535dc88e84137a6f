"""Shading of surfaces: what is known at every pixel, lights, and materials.

A *material* is a function of a :class:`~unrender.shading.gbuffer.GBuffer` and the lights that returns color and opacity per pixel. Those of
:mod:`unrender.shading.materials` are small frozen data classes; a plain function works as well. All colors are linear light.
"""
