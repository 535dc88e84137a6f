// A dense grid averaged with its neighbors: the loop of ops/encodings/grid_smoothing.py.

// section: smooth
// A row of the result. First the nine rows around it are averaged, 64 vertices at a time, then three neighbors within.
const float weights[3] = {0.25f, 0.5f, 0.25f};
const float* rows[9];
float shares[9];
for (int dz = 0; dz < 3; dz++)
    for (int dy = 0; dy < 3; dy++) {
        const int nz = z + dz - 1, ny = y + dy - 1;
        const int cz = nz < 0 ? 0 : (nz < size_z ? nz : size_z - 1), cy = ny < 0 ? 0 : (ny < size_y ? ny : size_y - 1);
        rows[3 * dz + dy] = source.data + (cz * size_y + cy) * size_x;
        shares[3 * dz + dy] = weights[dz] * weights[dy];
    }
float* out = target.data + (z * size_y + y) * size_x;
for (int from = 0; from < size_x; from += 64) {
    const int count = size_x - from < 64 ? size_x - from : 64;
    float mean[66];
    auto average = [&](int x) {
        float sum = 0.f;
        for (int k = 0; k < 9; k++) sum += shares[k] * rows[k][x];
        return sum;
    };
    for (int x = 0; x < count; x++) mean[x + 1] = 0.f;
    for (int k = 0; k < 9; k++)
        for (int x = 0; x < count; x++) mean[x + 1] += shares[k] * rows[k][from + x];
    mean[0] = from ? average(from - 1) : mean[1];
    mean[count + 1] = from + count < size_x ? average(from + count) : mean[count];
    for (int x = 0; x < count; x++) out[from + x] = 0.25f * mean[x] + 0.5f * mean[x + 1] + 0.25f * mean[x + 2];
}
