// The loops of texture.py's three kernels: values, their gradient to the samples, and their gradient to the texels.
//
// Each follows the section `lookup` of texture_lookup.h. A loop has two forms: `one_sample`, which a GPU runs, and, on a CPU, blocks
// of LANES samples whose places, levels and weights are computed side by side. Gradients are named grad_x = dL/dx.

// section: grad_is_zero
// Most pixels of a picture are background, whose gradient is zero: they are skipped.
auto grad_is_zero = [&](int n) {
    const float* g = grad_values.data + (long long)n * channels;
    for (int c = 0; c < channels; c++)
        if (g[c] != 0.f) return false;
    return true;
};

// section: values
auto one_sample = [&](int n) {
    float* out = values.data + (long long)n * channels;
    const Place p = locate(n);
    if (!p.valid) {
        for (int c = 0; c < channels; c++) out[c] = 0.f;
        if (lookup.bands > 1) bands_read.data[n] = 0;
        if (lookup.filter >= LINEAR_MIPMAP_NEAREST) chosen_level.data[n] = 0.f;
        return;
    }
    const int view = lookup.texture_views > 1 ? n / lookup.samples_per_view : 0;
    const float level = lookup.filter >= LINEAR_MIPMAP_NEAREST ? level_of(n, p) : 0.f;
    const int level_0 = (int)level;
    const float between = lookup.filter == LINEAR_MIPMAP_LINEAR ? level - level_0 : 0.f;
    if (lookup.filter >= LINEAR_MIPMAP_NEAREST) chosen_level.data[n] = level;
    Footprint fine, coarse;
    footprint(p, view, level_0, fine);
    const float* base = (const float*)lookup.levels[level_0];
    const float* above = base;
    coarse.taps = 0;
    if (between > 0.f) {
        footprint(p, view, level_0 + 1, coarse);
        above = (const float*)lookup.levels[level_0 + 1];
    }
    if (lookup.bands > 1) {
        int mask = 0;
        for (int k = 0; k < fine.taps; k++) mask |= 1 << band_of(fine.row[k], level_0);
        for (int k = 0; k < coarse.taps; k++) mask |= 1 << band_of(coarse.row[k], level_0 + 1);
        bands_read.data[n] = mask;
    }
    if (fine.taps == 1) {
        for (int c = 0; c < channels; c++) out[c] = base[fine.texel[0] * channels + c];
        return;
    }
    if (fine.taps == 0) fine.weight[0] = fine.weight[1] = fine.weight[2] = fine.weight[3] = 0.f;
    if (coarse.taps == 0) coarse.weight[0] = coarse.weight[1] = coarse.weight[2] = coarse.weight[3] = 0.f;
    if (fine.taps == 0) fine.texel[0] = fine.texel[1] = fine.texel[2] = fine.texel[3] = 0;
    if (coarse.taps == 0) coarse.texel[0] = coarse.texel[1] = coarse.texel[2] = coarse.texel[3] = 0;
    if (channels == 1) {
        // use: mix with CHANNELS=1
    } else if (channels == 3) {
        // use: mix with CHANNELS=3
    } else if (channels == 4) {
        // use: mix with CHANNELS=4
    } else {
        // use: mix with CHANNELS=channels
    }
};
#if defined(__CUDA_ARCH__)
for (int n = begin; n < end; n++) one_sample(n);
#else
if (!lookup.in_blocks) {
    for (int n = begin; n < end; n++) one_sample(n);
    return;
}
int m = 0;
for (int n = begin; n < end; n++) {
    if (valid(n)) id[m++] = n; else one_sample(n);
    if (m < LANES && n + 1 < end) continue;
    gather(m, lookup.has_derivatives);
    if (lookup.filter >= LINEAR_MIPMAP_NEAREST) {
        choose_levels(m);
        for (int k = 0; k < m; k++) chosen_level.data[id[k]] = level[k];
    } else {
        for (int k = 0; k < m; k++) level[k] = 0.f;
    }
    find_taps(m);
    if (lookup.bands > 1) {
        int mask[LANES];
        for (int k = 0; k < m; k++) {
            const Taps& a = taps[0];
            mask[k] = 1 << band_of(a.upper_row[k], level_0[k]) | 1 << band_of(a.lower_row[k], level_0[k]);
        }
        if (lookup.filter == LINEAR_MIPMAP_LINEAR)
            for (int k = 0; k < m; k++) {
                const Taps& b = taps[1];
                const int more = 1 << band_of(b.upper_row[k], level_0[k] + 1) | 1 << band_of(b.lower_row[k], level_0[k] + 1);
                mask[k] |= between[k] > 0.f ? more : 0;
            }
        for (int k = 0; k < m; k++) bands_read.data[id[k]] = mask[k];
    }
    if (channels == 3) {
        // use: mix_block with CHANNELS=3 STEPS=1 NUMBER=Quad LOAD=load_three STORE=store_three
    } else if (channels == 4) {
        // use: mix_block with CHANNELS=4 STEPS=1 NUMBER=Quad LOAD=load_four STORE=store_four
    } else {
        // use: mix_block with CHANNELS=channels STEPS=channels NUMBER=float LOAD=load_one STORE=store_one
    }
    m = 0;
}
#endif

// section: mix
// One sample: a bilinear mix, or two of them mixed by the level. CHANNELS is often a constant, so that the loop is unrolled.
for (int c = 0; c < CHANNELS; c++) {
    float sum = fine.weight[0] * base[fine.texel[0] * CHANNELS + c];
    for (int k = 1; k < 4; k++) sum += fine.weight[k] * base[fine.texel[k] * CHANNELS + c];
    if (between > 0.f) {
        float sum_above = coarse.weight[0] * above[coarse.texel[0] * CHANNELS + c];
        for (int k = 1; k < 4; k++) sum_above += coarse.weight[k] * above[coarse.texel[k] * CHANNELS + c];
        sum = (1.f - between) * sum + between * sum_above;
    }
    out[c] = sum;
}

// section: mix_block
// A block of samples. CHANNELS channels are read by LOAD as a NUMBER, in STEPS steps: 3 or 4 at once as a vector, or one after the other.
auto mix = [&](const Taps& a, int level, int k, int c) {
#pragma clang fp contract(fast)
    const float* texels = (const float*)lookup.levels[level] + c;
    const NUMBER t00 = LOAD(texels + (long long)(a.upper[k] + a.left[k]) * CHANNELS);
    const NUMBER t01 = LOAD(texels + (long long)(a.upper[k] + a.right[k]) * CHANNELS);
    const NUMBER t10 = LOAD(texels + (long long)(a.lower[k] + a.left[k]) * CHANNELS);
    const NUMBER t11 = LOAD(texels + (long long)(a.lower[k] + a.right[k]) * CHANNELS);
    const NUMBER upper = a.near_s[k] * t00 + a.far_s[k] * t01, lower = a.near_s[k] * t10 + a.far_s[k] * t11;
    const NUMBER sum = a.near_t[k] * upper + a.far_t[k] * lower;
    return sum;
};
for (int k = 0; k < m; k++) {
    if (over_edge[k]) { one_sample(id[k]); continue; }
    float* out = values.data + (long long)id[k] * CHANNELS;
    for (int c = 0; c < STEPS; c++) {
        NUMBER sum = mix(taps[0], level_0[k], k, c);
        if (between[k] > 0.f) sum = (1.f - between[k]) * sum + between[k] * mix(taps[1], level_0[k] + 1, k, c);
        STORE(out + c, sum);
    }
}

// section: sample_gradients
// The sum over channels of the gradient times the value of one level, and its derivatives by s and t.
auto project = [&](const Place& p, int view, int level, const float* g, float& value, float& by_s, float& by_t) {
    Footprint foot;
    footprint(p, view, level, foot);
    value = by_s = by_t = 0.f;
    if (foot.taps == 0) return;
    const float* texels = (const float*)lookup.levels[level];
    float along[4];
    if (channels == 1) {
        // use: project with CHANNELS=1
    } else if (channels == 3) {
        // use: project with CHANNELS=3
    } else if (channels == 4) {
        // use: project with CHANNELS=4
    } else {
        // use: project with CHANNELS=channels
    }
    for (int k = 0; k < 4; k++) {
        value += foot.weight[k] * along[k];
        by_s += foot.by_s[k] * along[k];
        by_t += foot.by_t[k] * along[k];
    }
};
const int axes = cube ? 3 : 2;
const int OF_UV = 1, OF_UV_DERIVATIVES = 2, OF_LEVEL_BIAS = 4;
auto write_zeros = [&](int n) {
    if (wanted & OF_UV)
        for (int k = 0; k < axes; k++) grad_uv.data[axes * n + k] = 0.f;
    if (wanted & OF_UV_DERIVATIVES)
        for (int k = 0; k < 2 * axes; k++) grad_uv_derivatives.data[2 * axes * n + k] = 0.f;
    if (wanted & OF_LEVEL_BIAS) grad_level_bias.data[n] = 0.f;
};
// Replaces the slopes of s and t by their gradients, from that of the level; `longest` is the squared longer axis of the footprint.
auto pull_through_level = [&](float grad_level, float& s_x, float& s_y, float& t_x, float& t_y) {
    const float w = (float)lookup.width, h = (float)lookup.height;
    const float sx = s_x * w, sy = s_y * w, tx = t_x * h, ty = t_y * h;
    const float a = sx * sx + tx * tx, b = sy * sy + ty * ty, c = sx * sy + tx * ty;
    const float half = 0.5f * (a - b), root = sqrtf(half * half + c * c);
    const float longest = 0.5f * (a + b) + root;
    const float scale = grad_level * 0.72134752f / longest;  // 1 / (2 ln 2)
    const float root_by_a = root > 0.f ? 0.5f * half / root : 0.f, root_by_c = root > 0.f ? c / root : 0.f;
    const float grad_a = scale * (0.5f + root_by_a), grad_b = scale * (0.5f - root_by_a), grad_c = scale * root_by_c;
    s_x = w * (2.f * grad_a * sx + grad_c * sy);
    s_y = w * (2.f * grad_b * sy + grad_c * sx);
    t_x = h * (2.f * grad_a * tx + grad_c * ty);
    t_y = h * (2.f * grad_b * ty + grad_c * tx);
};
// For a cube map: pulls the gradients of s, t and of their slopes d back to the direction and its derivatives.
auto write_direction = [&](
    int n, const Place& p, bool through_level, const Slopes& d, float by_s, float by_t, const Slopes& grad_d
) {
    const Face f = face_axes(p.face);
    const float half = 0.5f / p.major, s = p.s_side / p.major, t = p.t_side / p.major;
    float grad_direction[3], grad_slopes[6] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    float grad_s = 0.5f * by_s, grad_t = 0.5f * by_t, grad_major = 0.f;
    if (through_level) {
        const float* given = uv_derivatives + 6 * (long long)n;
        const float major_x = f.major_sign * given[2 * f.major], major_y = f.major_sign * given[2 * f.major + 1];
        grad_s -= half * (major_x * grad_d.s_x + major_y * grad_d.s_y);
        grad_t -= half * (major_x * grad_d.t_x + major_y * grad_d.t_y);
        grad_major = -(grad_d.s_x * d.s_x + grad_d.s_y * d.s_y + grad_d.t_x * d.t_x + grad_d.t_y * d.t_y) / p.major;
        grad_slopes[2 * f.s] = f.s_sign * half * grad_d.s_x;
        grad_slopes[2 * f.s + 1] = f.s_sign * half * grad_d.s_y;
        grad_slopes[2 * f.t] = f.t_sign * half * grad_d.t_x;
        grad_slopes[2 * f.t + 1] = f.t_sign * half * grad_d.t_y;
        grad_slopes[2 * f.major] = -f.major_sign * half * (s * grad_d.s_x + t * grad_d.t_x);
        grad_slopes[2 * f.major + 1] = -f.major_sign * half * (s * grad_d.s_y + t * grad_d.t_y);
    }
    grad_major -= (grad_s * s + grad_t * t) / p.major;
    grad_direction[f.s] = f.s_sign * grad_s / p.major;
    grad_direction[f.t] = f.t_sign * grad_t / p.major;
    grad_direction[f.major] = f.major_sign * grad_major;
    if (wanted & OF_UV)
        for (int k = 0; k < 3; k++) grad_uv.data[3 * n + k] = grad_direction[k];
    if (wanted & OF_UV_DERIVATIVES)
        for (int k = 0; k < 6; k++) grad_uv_derivatives.data[6 * n + k] = grad_slopes[k];
};
// use: grad_is_zero
auto one_sample = [&](int n) {
    const float* g = grad_values.data + (long long)n * channels;
    const Place p = locate(n);
    if (!p.valid || grad_is_zero(n)) { write_zeros(n); return; }
    const int view = lookup.texture_views > 1 ? n / lookup.samples_per_view : 0;
    const float level = lookup.filter >= LINEAR_MIPMAP_NEAREST ? chosen_level.data[n] : 0.f;
    const int level_0 = (int)level;
    const bool interior = lookup.filter == LINEAR_MIPMAP_LINEAR && level > 0.f && level < (float)lookup.top;
    float value, by_s, by_t, grad_level = 0.f;
    project(p, view, level_0, g, value, by_s, by_t);
    if (interior) {
        const float between = level - level_0;
        float value_above, by_s_above, by_t_above;
        project(p, view, level_0 + 1, g, value_above, by_s_above, by_t_above);
        grad_level = value_above - value;
        by_s += between * (by_s_above - by_s);
        by_t += between * (by_t_above - by_t);
    }
    const bool through_level = interior && lookup.has_derivatives;
    Slopes d = {0.f, 0.f, 0.f, 0.f};
    if (through_level) d = slopes_of(n, p);
    Slopes grad_d = d;
    if (through_level) pull_through_level(grad_level, grad_d.s_x, grad_d.s_y, grad_d.t_x, grad_d.t_y);
    if (wanted & OF_LEVEL_BIAS) grad_level_bias.data[n] = grad_level;
    if (cube) { write_direction(n, p, through_level, d, by_s, by_t, grad_d); return; }
    if (wanted & OF_UV) { grad_uv.data[2 * n] = by_s; grad_uv.data[2 * n + 1] = by_t; }
    if (wanted & OF_UV_DERIVATIVES) {
        float* to = grad_uv_derivatives.data + 4 * (long long)n;
        to[0] = grad_d.s_x; to[1] = grad_d.s_y; to[2] = grad_d.t_x; to[3] = grad_d.t_y;
    }
};
#if defined(__CUDA_ARCH__)
for (int n = begin; n < end; n++) one_sample(n);
#else
if (!lookup.in_blocks) {
    for (int n = begin; n < end; n++) one_sample(n);
    return;
}
int interior[LANES];
float by_s[LANES], by_t[LANES], grad_level[LANES], grad_s_x[LANES], grad_s_y[LANES], grad_t_x[LANES], grad_t_y[LANES];
const bool has_levels = lookup.filter >= LINEAR_MIPMAP_NEAREST;
const bool with_slopes = lookup.filter == LINEAR_MIPMAP_LINEAR && lookup.has_derivatives;
int m = 0;
for (int n = begin; n < end; n++) {
    if (grad_is_zero(n) || !valid(n)) write_zeros(n); else id[m++] = n;
    if (m < LANES && n + 1 < end) continue;
    gather(m, with_slopes);
    for (int k = 0; k < m; k++) level[k] = has_levels ? chosen_level.data[id[k]] : 0.f;
    find_taps(m);
    for (int k = 0; k < m; k++)
        interior[k] = lookup.filter == LINEAR_MIPMAP_LINEAR && level[k] > 0.f && level[k] < (float)lookup.top ? 1 : 0;
    if (channels == 3) {
        // use: project_block with CHANNELS=3 STEPS=1 NUMBER=Quad LOAD=load_three SUM=sum_of_four
    } else if (channels == 4) {
        // use: project_block with CHANNELS=4 STEPS=1 NUMBER=Quad LOAD=load_four SUM=sum_of_four
    } else {
        // use: project_block with CHANNELS=channels STEPS=channels NUMBER=float LOAD=load_one SUM=sum_of_one
    }
    if (with_slopes)
        for (int k = 0; k < m; k++) {
            grad_s_x[k] = s_x[k]; grad_s_y[k] = s_y[k]; grad_t_x[k] = t_x[k]; grad_t_y[k] = t_y[k];
            pull_through_level(grad_level[k], grad_s_x[k], grad_s_y[k], grad_t_x[k], grad_t_y[k]);
            if (!interior[k]) grad_s_x[k] = grad_s_y[k] = grad_t_x[k] = grad_t_y[k] = 0.f;
        }
    else
        for (int k = 0; k < m; k++) grad_s_x[k] = grad_s_y[k] = grad_t_x[k] = grad_t_y[k] = 0.f;
    for (int k = 0; k < m; k++) {
        if (over_edge[k]) { one_sample(id[k]); continue; }
        const int n = id[k];
        if (wanted & OF_LEVEL_BIAS) grad_level_bias.data[n] = grad_level[k];
        if (cube) {
            const Slopes d = {s_x[k], s_y[k], t_x[k], t_y[k]};
            const bool through_level = with_slopes && interior[k];
            const Slopes grad_d = {grad_s_x[k], grad_s_y[k], grad_t_x[k], grad_t_y[k]};
            write_direction(n, locate(n), through_level, d, by_s[k], by_t[k], grad_d);
            continue;
        }
        if (wanted & OF_UV) { grad_uv.data[2 * n] = by_s[k]; grad_uv.data[2 * n + 1] = by_t[k]; }
        if (wanted & OF_UV_DERIVATIVES) {
            float* to = grad_uv_derivatives.data + 4 * (long long)n;
            to[0] = grad_s_x[k]; to[1] = grad_s_y[k]; to[2] = grad_t_x[k]; to[3] = grad_t_y[k];
        }
    }
    m = 0;
}
#endif

// section: project
for (int k = 0; k < 4; k++) {
    float dot = 0.f;
    for (int c = 0; c < CHANNELS; c++) dot += g[c] * texels[foot.texel[k] * CHANNELS + c];
    along[k] = dot;
}

// section: project_block
auto project_sample = [&](const Taps& a, int level, int k, float& value, float& along_s, float& along_t) {
#pragma clang fp contract(fast)
    const float* g = grad_values.data + (long long)id[k] * CHANNELS;
    const float* texels = (const float*)lookup.levels[level];
    const float* p00 = texels + (long long)(a.upper[k] + a.left[k]) * CHANNELS;
    const float* p01 = texels + (long long)(a.upper[k] + a.right[k]) * CHANNELS;
    const float* p10 = texels + (long long)(a.lower[k] + a.left[k]) * CHANNELS;
    const float* p11 = texels + (long long)(a.lower[k] + a.right[k]) * CHANNELS;
    value = along_s = along_t = 0.f;
    for (int c = 0; c < STEPS; c++) {
        const NUMBER part = LOAD(g + c), t00 = LOAD(p00 + c), t01 = LOAD(p01 + c), t10 = LOAD(p10 + c), t11 = LOAD(p11 + c);
        const NUMBER upper = a.near_s[k] * t00 + a.far_s[k] * t01, lower = a.near_s[k] * t10 + a.far_s[k] * t11;
        const NUMBER upper_by_s = a.by_near_s[k] * t00 + a.by_far_s[k] * t01;
        const NUMBER lower_by_s = a.by_near_s[k] * t10 + a.by_far_s[k] * t11;
        value += SUM(part * (a.near_t[k] * upper + a.far_t[k] * lower));
        along_s += SUM(part * (a.near_t[k] * upper_by_s + a.far_t[k] * lower_by_s));
        along_t += SUM(part * (a.by_near_t[k] * upper + a.by_far_t[k] * lower));
    }
};
for (int k = 0; k < m; k++) {
    if (over_edge[k]) { grad_level[k] = 0.f; continue; }
    float value, along_s, along_t, rise = 0.f;
    project_sample(taps[0], level_0[k], k, value, along_s, along_t);
    if (interior[k]) {
        float value_above, along_s_above, along_t_above;
        project_sample(taps[1], level_0[k] + 1, k, value_above, along_s_above, along_t_above);
        rise = value_above - value;
        along_s += between[k] * (along_s_above - along_s);
        along_t += between[k] * (along_t_above - along_t);
    }
    by_s[k] = along_s; by_t[k] = along_t; grad_level[k] = rise;
}

// section: scatter
// use: kernels.add
// On a CPU, `written` notes the rows of every level that are added to; nothing needs to be done for the others.
unsigned char* const written = (unsigned char*)target.written;
const unsigned long long offset = (unsigned long long)copy * target.bytes_per_copy;
const int base_rows = lookup.texture_views * (cube ? 6 : 1) * lookup.height;
auto add = [&](const Place& p, int view, int level, float share, const float* g) {
    Footprint foot;
    footprint(p, view, level, foot);
    float* texels = (float*)(target.grad_levels[level] + offset);
    if (channels == 1) {
        // use: add_footprint with CHANNELS=1
    } else if (channels == 3) {
        // use: add_footprint with CHANNELS=3
    } else if (channels == 4) {
        // use: add_footprint with CHANNELS=4
    } else {
        // use: add_footprint with CHANNELS=channels
    }
};
const int bit = 1 << band;
const int* mask = bands_read.data;
// use: grad_is_zero
auto one_sample = [&](int n) {
    const float* g = grad_values.data + (long long)n * channels;
    const Place p = locate(n);
    if (!p.valid || grad_is_zero(n)) return;
    const int view = lookup.texture_views > 1 ? n / lookup.samples_per_view : 0;
    const float level = lookup.filter >= LINEAR_MIPMAP_NEAREST ? chosen_level.data[n] : 0.f;
    const int level_0 = (int)level;
    const float between = lookup.filter == LINEAR_MIPMAP_LINEAR ? level - level_0 : 0.f;
    add(p, view, level_0, 1.f - between, g);
    if (between > 0.f) add(p, view, level_0 + 1, between, g);
};
#if defined(__CUDA_ARCH__)
for (int n = begin; n < end; n++) one_sample(n);
#else
const bool has_levels = lookup.filter >= LINEAR_MIPMAP_NEAREST;
int m = 0;
auto flush = [&]() {
    gather(m, false);
    for (int k = 0; k < m; k++) level[k] = has_levels ? chosen_level.data[id[k]] : 0.f;
    find_taps(m);
    if (channels == 3) {
        // use: add_block with CHANNELS=3 STEPS=1 NUMBER=Quad LOAD=load_three STORE=store_three
    } else if (channels == 4) {
        // use: add_block with CHANNELS=4 STEPS=1 NUMBER=Quad LOAD=load_four STORE=store_four
    } else {
        // use: add_block with CHANNELS=channels STEPS=channels NUMBER=float LOAD=load_one STORE=store_one
    }
    m = 0;
};
for (int n = begin; n < end; n++) {
    if (lookup.bands > 1) {
        // use: kernels.skip_others
    }
    if (!lookup.in_blocks) { one_sample(n); continue; }
    if (grad_is_zero(n) || !valid(n)) continue;
    id[m++] = n;
    if (m == LANES) flush();
}
if (m > 0) flush();
#endif
// use: kernels.forget_add

// section: add_footprint
for (int k = 0; k < foot.taps; k++) {
    if (foot.weight[k] == 0.f || (lookup.bands > 1 && band_of(foot.row[k], level) != band)) continue;
    const float weight = share * foot.weight[k];
    float* to = texels + foot.texel[k] * CHANNELS;
    for (int c = 0; c < CHANNELS; c++) UNRENDER_ADD(to + c, weight * g[c]);
    if (written) written[level * base_rows + foot.row[k]] = 1;
}

// section: add_block
#pragma clang fp contract(fast)
for (int k = 0; k < m; k++) {
    if (over_edge[k]) { one_sample(id[k]); continue; }
    const float* g = grad_values.data + (long long)id[k] * CHANNELS;
    for (int which = 0; which < 2; which++) {
        const int here = level_0[k] + which;
        const float share = which ? between[k] : 1.f - between[k];
        if (share == 0.f) continue;
        const Taps& a = taps[which];
        float* texels = (float*)(target.grad_levels[here] + offset);
        for (int low = 0; low < 2; low++) {
            const int row = low ? a.lower_row[k] : a.upper_row[k];
            const float weight = share * (low ? a.far_t[k] : a.near_t[k]);
            if (weight == 0.f || (lookup.bands > 1 && band_of(row, here) != band)) continue;
            const int texel = low ? a.lower[k] : a.upper[k];
            float* left = texels + (long long)(texel + a.left[k]) * CHANNELS;
            float* right = texels + (long long)(texel + a.right[k]) * CHANNELS;
            const float to_left = weight * a.near_s[k], to_right = weight * a.far_s[k];
            for (int c = 0; c < STEPS; c++) {
                const NUMBER part = LOAD(g + c);
                if (to_left != 0.f) STORE(left + c, LOAD(left + c) + to_left * part);
                if (to_right != 0.f) STORE(right + c, LOAD(right + c) + to_right * part);
            }
            if (written) written[here * base_rows + row] = 1;
        }
    }
}
