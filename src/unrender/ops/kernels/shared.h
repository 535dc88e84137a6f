// What kernels of several families share; other headers take a section by "// use: kernels.NAME" (ops/kernels/native.py).

// section: add
// UNRENDER_ADD for kernels that scatter: atomic on a GPU, and plain on a CPU, where each work item owns what it adds to.
#if defined(__CUDA_ARCH__)
#define UNRENDER_ADD(address, amount) atomicAdd(address, amount)
#else
#define UNRENDER_ADD(address, amount) *(address) += (amount)
#endif

// section: forget_add
#undef UNRENDER_ADD

// section: skip_others
        // In a loop over n up to `end`: skip, eight at once, the elements whose `mask` lacks the range's `bit`.
        if (n + 8 <= end) {
            int any = 0;
            for (int k = 0; k < 8; k++) any |= mask[n + k];
            if (!(any & bit)) { n += 7; continue; }
        }
        if (!(mask[n] & bit)) continue;
