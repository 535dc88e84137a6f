"""How kernels are launched, and how their work is cut."""
