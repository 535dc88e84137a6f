// Weighted sums along one ray, for compositing.py. `weights` and `values` are arrays of float32; sample i of channel c lies at
// values[c * channel_stride + i * sample_stride].

// section: sum_ray
    const int channels = sums.shape[1];
    // Four partial sums run side by side, because one addition must wait for the one before it.
    const float* w = weights.data;
    for (int c = 0; c < channels; c++) {
        const float* v = values.data + (long long)c * channel_stride;
        float a = 0.0f, b = 0.0f, d = 0.0f, e = 0.0f;
        int i = begin;
        if (sample_stride == 1) {
            for (; i + 3 < end; i += 4) {
                a += w[i] * v[i];
                b += w[i + 1] * v[i + 1];
                d += w[i + 2] * v[i + 2];
                e += w[i + 3] * v[i + 3];
            }
            for (; i < end; i++) a += w[i] * v[i];
        } else {
            for (; i + 3 < end; i += 4) {
                a += w[i] * v[(long long)i * sample_stride];
                b += w[i + 1] * v[(long long)(i + 1) * sample_stride];
                d += w[i + 2] * v[(long long)(i + 2) * sample_stride];
                e += w[i + 3] * v[(long long)(i + 3) * sample_stride];
            }
            for (; i < end; i++) a += w[i] * v[(long long)i * sample_stride];
        }
        sums.data[ray * channels + c] = (a + b) + (d + e);
    }

// section: sum_ray_adjoint
    const int channels = grad_sums.shape[1];
    const float* w = weights.data;
    float* gw = grad_weights.data;
    for (int c = 0; c < channels; c++) {
        const float g = grad_sums.data[ray * channels + c];
        const float* v = values.data + (long long)c * channel_stride;
        float* gv = grad_values.data + (long long)c * channel_stride;
        if (sample_stride == 1) {
            for (int i = begin; i < end; i++) gw[i] += g * v[i];
            for (int i = begin; i < end; i++) gv[i] = g * w[i];
        } else {
            for (int i = begin; i < end; i++) gw[i] += g * v[(long long)i * sample_stride];
            for (int i = begin; i < end; i++) gv[(long long)i * sample_stride] = g * w[i];
        }
    }
