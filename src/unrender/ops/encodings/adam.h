// One update of Adam or RMSProp: the loops over entries of ops/encodings/adam.py.

// section: update
// The update of one number, or of a vector of them.
#define UPDATE(NUMBER, ROOT)                                                                                   \
    {                                                                                                          \
        const NUMBER g = *(const NUMBER*)(gradient.data + j);                                                  \
        const NUMBER m = rule.beta_1 * *(NUMBER*)(first_moment.data + j) + (1.f - rule.beta_1) * g;            \
        const NUMBER v = rule.beta_2 * *(NUMBER*)(second_moment.data + j) + (1.f - rule.beta_2) * g * g;       \
        NUMBER* p = (NUMBER*)(parameter.data + j);                                                             \
        *(NUMBER*)(first_moment.data + j) = m;                                                                 \
        *(NUMBER*)(second_moment.data + j) = v;                                                                \
        *p = *p * rule.decay - rule.step_size * m / (ROOT(v) * rule.root_scale + rule.epsilon);                \
    }
// The update is exactly zero where gradient and first moment are, whose bits are then zero but for the sign.
const unsigned magnitude = 0x7fffffffu;
for (int k = begin; k < end; k += 16) {
    const int last = k + 16 < end ? k + 16 : end;
#if !defined(__CUDA_ARCH__) && !defined(__CUDACC__)
    typedef float vec __attribute__((ext_vector_type(16), aligned(4)));
    typedef unsigned bits __attribute__((ext_vector_type(16), aligned(4)));
    if (last - k == 16) {
        const int j = k;
        const bits touched = *(const bits*)(gradient.data + j) | *(const bits*)(first_moment.data + j);
        if (__builtin_reduce_or(touched) & magnitude) UPDATE(vec, __builtin_elementwise_sqrt)
        continue;
    }
#endif
    unsigned touched = 0;
    for (int j = k; j < last; j++) touched |= *(const unsigned*)(gradient.data + j) | *(const unsigned*)(first_moment.data + j);
    if (last - k == 16 && !(touched & magnitude)) continue;
    for (int j = k; j < last; j++) UPDATE(float, sqrtf)
}
#undef UPDATE

// section: root_update
// The second moment of an entry begins with its first gradient.
for (int k = begin; k < end; k += 16) {
    const int last = k + 16 < end ? k + 16 : end;
    unsigned touched = 0;
    for (int j = k; j < last; j++) touched |= *(const unsigned*)(gradient.data + j);
    if (!(touched & 0x7fffffffu)) continue;
    for (int j = k; j < last; j++) {
        const float g = gradient.data[j], before = second_moment.data[j], square = g * g;
        const float moment = before == 0.f ? square : rule.beta * before + (1.f - rule.beta) * square;
        const bool changed = g != 0.f;
        second_moment.data[j] = changed ? moment : before;
        parameter.data[j] -= changed ? rule.rate * g / (sqrtf(moment) + rule.epsilon) : 0.f;
    }
}

// section: finite
// Whether no number from begin to end is infinite or NaN, whose exponents are all ones.
const unsigned ones = 0x7f800000u;
unsigned found = 0;
for (int k = begin; k < end; k++) found |= (*(const unsigned*)(values.data + k) & ones) == ones ? 1u : 0u;
result.data[item] = found ? 0.f : 1.f;
