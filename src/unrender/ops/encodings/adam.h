// One update of Adam or RMSProp: the loops over entries of ops/encodings/adam.py.

// section: update
float* parameter = (float*)parameter_address;
const float* gradient = (const float*)gradient_address;
float *first_moment = (float*)first_address, *second_moment = (float*)second_address;
// The update of one number, or of a vector of them.
#define UPDATE(NUMBER, ROOT)                                                                           \
    {                                                                                                  \
        const NUMBER g = *(const NUMBER*)(gradient + j);                                               \
        const NUMBER m = rule.beta_1 * *(NUMBER*)(first_moment + j) + (1.f - rule.beta_1) * g;         \
        const NUMBER v = rule.beta_2 * *(NUMBER*)(second_moment + j) + (1.f - rule.beta_2) * g * g;    \
        NUMBER* p = (NUMBER*)(parameter + j);                                                          \
        *(NUMBER*)(first_moment + j) = m;                                                              \
        *(NUMBER*)(second_moment + j) = v;                                                             \
        *p = *p * rule.decay - rule.step_size * m / (ROOT(v) * rule.root_scale + rule.epsilon);        \
    }
// The update is exactly zero where gradient and first moment are, whose bits are then zero but for the sign.
const unsigned magnitude = 0x7fffffffu;
for (long long k = begin; k < end; k += 16) {
    const long long last = k + 16 < end ? k + 16 : end;
#if !defined(__CUDA_ARCH__) && !defined(__CUDACC__)
    typedef float vec __attribute__((ext_vector_type(16), aligned(4)));
    typedef unsigned bits __attribute__((ext_vector_type(16), aligned(4)));
    if (last - k == 16) {
        const long long j = k;
        const bits touched = *(const bits*)(gradient + j) | *(const bits*)(first_moment + j);
        if (__builtin_reduce_or(touched) & magnitude) UPDATE(vec, __builtin_elementwise_sqrt)
        continue;
    }
#endif
    unsigned touched = 0;
    for (long long j = k; j < last; j++) touched |= *(const unsigned*)(gradient + j) | *(const unsigned*)(first_moment + j);
    if (last - k == 16 && !(touched & magnitude)) continue;
    for (long long j = k; j < last; j++) UPDATE(float, sqrtf)
}
#undef UPDATE

// section: root_update
float* parameter = (float*)parameter_address;
const float* gradient = (const float*)gradient_address;
float* second_moment = (float*)second_address;
// The second moment of an entry begins with its first gradient.
for (long long k = begin; k < end; k += 16) {
    const long long last = k + 16 < end ? k + 16 : end;
    unsigned touched = 0;
    for (long long j = k; j < last; j++) touched |= *(const unsigned*)(gradient + j);
    if (!(touched & 0x7fffffffu)) continue;
    for (long long j = k; j < last; j++) {
        const float g = gradient[j], before = second_moment[j], square = g * g;
        const float moment = before == 0.f ? square : rule.beta * before + (1.f - rule.beta) * square;
        const bool changed = g != 0.f;
        second_moment[j] = changed ? moment : before;
        parameter[j] -= changed ? rule.rate * g / (sqrtf(moment) + rule.epsilon) : 0.f;
    }
}

// section: finite
// Notes a number from begin to end that is infinite or NaN, whose exponents are all ones. All work items write the same.
const unsigned* values = (const unsigned*)address;
const unsigned ones = 0x7f800000u;
unsigned any = 0;
for (int k = begin; k < end; k++) any |= (values[k] & ones) == ones ? 1u : 0u;
if (any) found.data[0] = 1.f;
