// Sines and cosines in octaves: the loops over points of ops/encodings/frequency_encoding.py.
//
// `octaves` has the sizes; positions, directions and gradients of them are [axis, point], the encoding and its gradient [column, point].

// section: sizes
    const int axes = octaves.axes, frequencies = octaves.frequencies;
    const bool include_input = octaves.include_input != 0;
    const float active = octaves.active;
    const int lead = include_input ? axes : 0;
    (void)active;

// section: rows
            // Where sine and cosine of this octave and axis begin.
            const size_t row = (size_t)(lead + 2 * k * axes + d) * count, next = row + (size_t)axes * count;
            const float octave = (float)(1 << k);

// section: encode
    // On a CPU: x = q pi/2 + r in double precision with |r| <= pi/4, then the Taylor series of sine and cosine up to r^9 and r^10, whose
    // first neglected terms, r^11/11! < 2e-9 and r^12/12! < 2e-10, are below the rounding of float32. There is no branch, so the loop is
    // vectorized.
    // use: sizes
    for (int d = 0; d < axes; ++d) {
        const float* x = positions.data + (size_t)d * count;
        if (include_input) {
            float* out = result.data + (size_t)d * count;
            for (int i = begin; i < end; ++i) out[i] = x[i];
        }
        for (int k = 0; k < frequencies; ++k) {
            // use: rows
            float* sine = result.data + row;
            float* cosine = result.data + next;
            const float reached = active - (float)k;
            if (reached <= 0.0f) {
                for (int i = begin; i < end; ++i) sine[i] = 0.0f;
                for (int i = begin; i < end; ++i) cosine[i] = 0.0f;
                continue;
            }
            const float weight = reached >= 1.0f ? 1.0f : 0.5f * (1.0f - ::cosf(3.14159265358979f * reached));
#if defined(__CUDA_ARCH__)
            for (int i = begin; i < end; ++i) {
                sine[i] = weight * ::sinf(octave * x[i]);
                cosine[i] = weight * ::cosf(octave * x[i]);
            }
#else
            for (int i = begin; i < end; ++i) {
                const double angle = (double)(octave * x[i]);
                const double quarter = ::floor(angle * 0.63661977236758134 + 0.5);
                const float quadrant = (float)(quarter - 4.0 * ::floor(0.25 * quarter));
                const float r = (float)(angle - quarter * 1.5707963267948966);
                const float t = r * r;
                const float s = r + r * t * (-1.0f / 6.0f + t * (1.0f / 120.0f + t * (-1.0f / 5040.0f + t * (1.0f / 362880.0f))));
                const float c4 = 1.0f / 24.0f + t * (-1.0f / 720.0f + t * (1.0f / 40320.0f + t * (-1.0f / 3628800.0f)));
                const float c = 1.0f + t * (-0.5f + t * c4);
                const bool odd = quadrant == 1.0f || quadrant == 3.0f;
                const float a = odd ? c : s, b = odd ? s : c;
                sine[i] = weight * (quadrant >= 2.0f ? -a : a);
                cosine[i] = weight * (quadrant == 1.0f || quadrant == 2.0f ? -b : b);
            }
#endif
        }
    }

// section: position_gradient
    // The encoding holds sine and cosine with their weight w already: d(w sin 2^k x)/dx = 2^k (w cos 2^k x), and so on. In second order,
    // the gradient of that to the positions, contracted with `directions`.
    // use: sizes
    for (int d = 0; d < axes; ++d) {
        float* out = result.data + (size_t)d * count;
        const float* v = directions.data + (size_t)d * count;
        for (int i = begin; i < end; ++i) out[i] = include_input && !second_order ? grad.data[(size_t)d * count + i] : 0.0f;
        for (int k = 0; k < frequencies && (float)k < active; ++k) {
            // use: rows
            const float* sine = encoded.data + row;
            const float* cosine = encoded.data + next;
            const float* g = grad.data + row;
            const float* h = grad.data + next;
            if (second_order) {
                for (int i = begin; i < end; ++i) out[i] -= octave * octave * (g[i] * sine[i] + h[i] * cosine[i]) * v[i];
            } else {
                for (int i = begin; i < end; ++i) out[i] += octave * (g[i] * cosine[i] - h[i] * sine[i]);
            }
        }
    }

// section: directional
    // The derivative of the encoding along `directions`: what reaches its gradient in second order.
    // use: sizes
    for (int d = 0; d < axes; ++d) {
        const float* v = directions.data + (size_t)d * count;
        if (include_input) {
            float* out = result.data + (size_t)d * count;
            for (int i = begin; i < end; ++i) out[i] = v[i];
        }
        for (int k = 0; k < frequencies; ++k) {
            // use: rows
            for (int i = begin; i < end; ++i) {
                const float sine = encoded.data[row + i], cosine = encoded.data[next + i];
                result.data[row + i] = octave * cosine * v[i];
                result.data[next + i] = -octave * sine * v[i];
            }
        }
    }
