"""What light does at a surface: what is known of every pixel, lights, and materials.

A *material* is a function of a :class:`~unrender.shading.gbuffer.GBuffer` and the lights that returns a color and an opacity per pixel;
those of :mod:`unrender.shading.materials` are small frozen data classes, and a function will do. All colors are linear light.
"""
