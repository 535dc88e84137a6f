// The total variation of some rows of voxels: the loop over rows of ops/rays/voxel_variation.py.

// section: variation
// Of the rows `begin` to `end` in the channels `c_begin` to `c_end`, which are the work item's own on a CPU. A neighbor without a row is left
// out. `scale_x` squared and so on weigh the differences along each axis.
// use: kernels.add
const unsigned row_count = vertices.shape[0];
const float smallest = 1e-9f, root = sqrtf(smallest);
const float weight[3] = {scale_x * scale_x, scale_y * scale_y, scale_z * scale_z};
float sum = 0.f;
for (int r = begin; r < end; r++) {
    const int vertex = vertices.data[r];
    if ((unsigned)vertex >= (unsigned)rows.shape[0]) continue;
    const int x = vertex % size_x, y = (vertex / size_x) % size_y, z = vertex / (size_x * size_y);
    const int next[3] = {
        x + 1 < size_x ? rows.data[vertex + 1] : -1,
        y + 1 < size_y ? rows.data[vertex + size_x] : -1,
        z + 1 < size_z ? rows.data[vertex + size_x * size_y] : -1,
    };
    for (int c = c_begin; c < c_end; c++) {
        const float here = values.data[(long long)r * channels + c];
        float difference[3], square = smallest;
        for (int axis = 0; axis < 3; axis++) {
            difference[axis] = (unsigned)next[axis] >= row_count ? 0.f : values.data[(long long)next[axis] * channels + c] - here;
            square += weight[axis] * difference[axis] * difference[axis];
        }
        const float length = sqrtf(square), share = scale / length;
        sum += length - root;
        float own = 0.f;
        for (int axis = 0; axis < 3; axis++) {
            const float amount = share * weight[axis] * difference[axis];
            own -= amount;
            if ((unsigned)next[axis] < row_count) UNRENDER_ADD(gradient.data + (long long)next[axis] * channels + c, amount);
        }
        UNRENDER_ADD(gradient.data + (long long)r * channels + c, own);
    }
}
sums.data[item] = sum;
// use: kernels.forget_add
