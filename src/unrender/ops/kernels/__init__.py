"""How kernels are written and launched, and how their work is split."""
