"""Every device primitive in plain PyTorch: same names, same arguments, any floating type.

Read these to learn the methods; the tests compare the kernels of :mod:`unrender.ops` with them.
"""
