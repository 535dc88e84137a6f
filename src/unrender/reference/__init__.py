"""Every device primitive once more in plain PyTorch: same names, same arguments, any floating type.

Read these to learn the method; the tests compare the kernels of :mod:`unrender.ops` with them.
"""
