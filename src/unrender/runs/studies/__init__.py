"""Studies: small experiments whose results are one page each, with pictures, numbers and a short text that explains them.

- ``page``: the page that all of them write
- ``encodings``: the geometry of Fourier features
- ``ntk``: how wide networks learn
- ``fourier``: what an encoding does to a picture, with fits of the recipe ``image``
"""
