// One update of Adam: the loop over entries of ops/encodings/adam.py.

// section: update
for (int k = begin; k < end; k += 16) {
    const int last = k + 16 < end ? k + 16 : end;
    if (last - k == 16) {
        // Whether a gradient or first moment is not zero, from the bits without the sign: the update of the others is exactly zero.
        const unsigned* g = (const unsigned*)(gradient.data + k);
        const unsigned* m = (const unsigned*)(first_moment.data + k);
        unsigned any = 0;
        for (int j = 0; j < 16; j++) any |= (g[j] | m[j]) & 0x7fffffffu;
        if (!any) continue;
    }
    for (int j = k; j < last; j++) {
        const float g = gradient.data[j];
        const float m = rule.beta_1 * first_moment.data[j] + (1.f - rule.beta_1) * g;
        const float v = rule.beta_2 * second_moment.data[j] + (1.f - rule.beta_2) * g * g;
        first_moment.data[j] = m;
        second_moment.data[j] = v;
        parameter.data[j] = parameter.data[j] * rule.decay - rule.step_size * m / (sqrtf(v) * rule.root_scale + rule.epsilon);
    }
}
