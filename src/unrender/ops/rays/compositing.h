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

// section: channel_sum
    // The sum of weights times values of a ray. Four partial sums run side by side, because one addition must wait for the one before it.
    auto channel_sum = [&](auto value) {
        const float* w = (const float*)weights;
        float a = 0.0f, b = 0.0f, d = 0.0f, e = 0.0f;
        int i = begin;
        for (; i + 3 < end; i += 4) {
            a += w[i] * value(i);
            b += w[i + 1] * value(i + 1);
            d += w[i + 2] * value(i + 2);
            e += w[i + 3] * value(i + 3);
        }
        for (; i < end; i++) a += w[i] * value(i);
        return (a + b) + (d + e);
    };

// section: ray_over
    // A ray over its background. Colors and normals are [channel, sample]; normals may be missing.
    // use: channel_sum
    const long long count = samples.starts.shape[0];
    const float *starts = samples.starts.data, *ends = samples.ends.data;
    const float total = channel_sum([](int i) { return 1.0f; });
    ((float*)opacity)[ray] = total;
    ((float*)distance)[ray] = channel_sum([=](int i) { return 0.5f * (starts[i] + ends[i]); });
    for (int c = 0; c < 3; c++) {
        const float *color = (const float*)colors + c * count, *normal = (const float*)normals + c * count;
        const float behind = (1.0f - total) * ((const float*)background)[3 * ray + c];
        ((float*)seen)[3 * ray + c] = channel_sum([=](int i) { return color[i]; }) + behind;
        ((float*)turned)[3 * ray + c] = normals ? channel_sum([=](int i) { return normal[i]; }) : 0.0f;
    }

// section: ray_over_adjoint
    const long long count = samples.starts.shape[0];
    const float *w = (const float*)weights, *starts = samples.starts.data, *ends = samples.ends.data;
    const float *by_seen = (const float*)grad_seen + 3 * ray, *by_turned = (const float*)grad_turned + 3 * ray;
    const float by_distance = grad_distance ? ((const float*)grad_distance)[ray] : 0.0f;
    float by_opacity = grad_opacity ? ((const float*)grad_opacity)[ray] : 0.0f, total = 0.0f;
    for (int i = begin; i < end; i++) total += w[i];
    for (int c = 0; c < 3; c++) {
        by_opacity -= by_seen[c] * ((const float*)background)[3 * ray + c];
        ((float*)grad_background)[3 * ray + c] = by_seen[c] * (1.0f - total);
    }
    float* gw = (float*)grad_weights;
    for (int i = begin; i < end; i++) gw[i] = by_opacity + by_distance * (0.5f * (starts[i] + ends[i]));
    for (int c = 0; c < 3; c++) {
        const float g = by_seen[c], *color = (const float*)colors + c * count;
        float* to = (float*)grad_colors + c * count;
        for (int i = begin; i < end; i++) gw[i] += g * color[i];
        for (int i = begin; i < end; i++) to[i] = g * w[i];
        if (!normals) continue;
        const float h = grad_turned ? by_turned[c] : 0.0f, *normal = (const float*)normals + c * count;
        float* onto = (float*)grad_normals + c * count;
        for (int i = begin; i < end; i++) gw[i] += h * normal[i];
        for (int i = begin; i < end; i++) onto[i] = h * w[i];
    }
