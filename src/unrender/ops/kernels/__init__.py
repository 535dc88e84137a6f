"""Infrastructure of kernels: checks, launches, C++ sections, structs, splitting of work."""
