// Marching along one ray through an occupancy grid, for marching.py: counts the samples of a ray, or writes them.
//
// Sums and products stand in separate statements: a compiler may fuse them within one statement, and the lattice would then differ by a bit
// from that of the twin.

// section: march_ray
    const int resolution = grid.resolution, levels = grid.levels;
    const int most_runs = recorded.k.shape[1];
    const int quota = writing ? samples.count.data[ray] : (most > 0 ? most : 2147483647);
    if (!writing) samples.count.data[ray] = 0;
    if (quota == 0) return;
    const float entry = rays.entries.data[ray];
    // No way through the grid is longer for a unit direction: a much shorter one would take a step for years.
    const float leave = wp::min(rays.leaves.data[ray], entry + 3.5f * (float)(1 << (levels - 1)));
    if (!(entry < leave)) return;

    const float ox = rays.origins.data[3 * ray], oy = rays.origins.data[3 * ray + 1], oz = rays.origins.data[3 * ray + 2];
    const float dx = rays.directions.data[3 * ray], dy = rays.directions.data[3 * ray + 1], dz = rays.directions.data[3 * ray + 2];
    const float half_resolution = 0.5f * resolution;
    const int bricks = resolution / 4;
    const float inv_step = 1.0f / step;
    const float first_length = cone > 0.0f ? wp::max(step, entry * cone) : step;
    const float offset = rays.offsets.data[ray];
    const float jump = (offset > 0.0f ? (offset < 1.0f ? offset : 1.0f) : 0.0f) * first_length;
    const float t0 = entry + jump;
    const float ix = dx != 0.0f ? 1.0f / dx : 0.0f, iy = dy != 0.0f ? 1.0f / dy : 0.0f, iz = dz != 0.0f ? 1.0f / dz : 0.0f;
    const float slack_x = wp::abs(ix) * 1e-6f, slack_y = wp::abs(iy) * 1e-6f, slack_z = wp::abs(iz) * 1e-6f;

    const int slots = most_runs * ray;
    int k = 0, found = 0, runs = 0;
    float t = t0;
    int out = writing ? samples.first.data[ray] : 0;
    bool in_run = false;
    if (writing) {
        // What the count has found, run by run; the last slot only says where to go on looking.
        for (;;) {
            k = recorded.k.data[slots + runs];
            t = recorded.t.data[slots + runs];
            if (runs == most_runs - 1) break;
            const int last = found + recorded.length.data[slots + runs];
            for (; found < last; found++, k++) {
                const float wide = t * cone;
                const float way = (k + 1) * step;
                const float next = cone > 0.0f ? t + wp::max(step, wide) : t0 + way;
                samples.ray_index.data[out + found] = ray;
                samples.starts.data[out + found] = t;
                samples.ends.data[out + found] = wp::min(next, leave);
                t = next;
            }
            if (found == quota) return;
            runs++;
        }
    }
    while (t < leave) {
        float next;
        float length = step;
        if (cone > 0.0f) {
            const float wide = t * cone;
            length = wp::max(step, wide);
            next = t + length;
        } else {
            const float way = (k + 1) * step;
            next = t0 + way;
        }
        if (!(next > t)) break;
        const float end = wp::min(next, leave);
        const float sum = t + end;
        const float mid = 0.5f * sum;
        const float wx = mid * dx, wy = mid * dy, wz = mid * dz;
        const float px = ox + wx, py = oy + wy, pz = oz + wz;
        int level = 0;
        float extent = 1.0f, shrink = 1.0f;
        if (levels > 1) {
            const float norm = wp::max(wp::abs(px), wp::max(wp::abs(py), wp::abs(pz)));
            while (level < levels - 1 && (norm > extent || extent < length * half_resolution)) {
                level++;
                extent *= 2.0f;
                shrink *= 0.5f;
            }
        }
        const float qx = px * shrink, qy = py * shrink, qz = pz * shrink;
        const float rx = qx + 1.0f, ry = qy + 1.0f, rz = qz + 1.0f;
        const int cx = wp::min(wp::max((int)(rx * half_resolution), 0), resolution - 1);
        const int cy = wp::min(wp::max((int)(ry * half_resolution), 0), resolution - 1);
        const int cz = wp::min(wp::max((int)(rz * half_resolution), 0), resolution - 1);
        const int brick = ((level * bricks + (cz >> 2)) * bricks + (cy >> 2)) * bricks + (cx >> 2);
        // The box known to be empty, in cells: several bricks, a brick, or a cell.
        int low_x = cx, low_y = cy, low_z = cz, size = 1;
        const int clear = grid.clearance.data[brick];
        if (clear > 0) {
            low_x = (cx & ~3) - 4 * (clear - 1);
            low_y = (cy & ~3) - 4 * (clear - 1);
            low_z = (cz & ~3) - 4 * (clear - 1);
            size = 8 * clear - 4;
        } else {
            const unsigned int word = (unsigned int)grid.bits.data[2 * brick + ((cz & 2) >> 1)];
            if ((word >> (16 * (cz & 1) + 4 * (cy & 3) + (cx & 3))) & 1u) {
                if (writing) {
                    samples.ray_index.data[out + found] = ray;
                    samples.starts.data[out + found] = t;
                    samples.ends.data[out + found] = end;
                } else if (runs < most_runs) {
                    if (!in_run) {
                        recorded.k.data[slots + runs] = k;
                        recorded.t.data[slots + runs] = t;
                        recorded.length.data[slots + runs] = 0;
                        in_run = true;
                    }
                    recorded.length.data[slots + runs]++;
                }
                found++;
                if (found == quota) break;
                k++;
                t = next;
                continue;
            }
        }
        if (in_run) { runs++; in_run = false; }
        const float cell = 2.0f * extent / resolution;
        float safe = leave;
        if (dx != 0.0f) {
            const float face = wp::min(wp::max(low_x + (dx > 0.0f ? size : 0), 0), resolution) * cell - extent;
            safe = wp::min(safe, (face - ox) * ix - slack_x * (wp::abs(ox) + wp::abs(face)));
        }
        if (dy != 0.0f) {
            const float face = wp::min(wp::max(low_y + (dy > 0.0f ? size : 0), 0), resolution) * cell - extent;
            safe = wp::min(safe, (face - oy) * iy - slack_y * (wp::abs(oy) + wp::abs(face)));
        }
        if (dz != 0.0f) {
            const float face = wp::min(wp::max(low_z + (dz > 0.0f ? size : 0), 0), resolution) * cell - extent;
            safe = wp::min(safe, (face - oz) * iz - slack_z * (wp::abs(oz) + wp::abs(face)));
        }
        if (cone > 0.0f) {
            if (level < levels - 1) safe = wp::min(safe, 0.9999f * cell / cone);
            t = next;
            while (t < safe) {
                const float wide = t * cone;
                const float ahead = t + wp::max(step, wide);
                if (!(0.5f * (t + ahead) < safe) || !(ahead > t)) break;
                t = ahead;
            }
        } else {
            safe = wp::max(safe, t);
            const int target = (int)((safe - t0) * inv_step + 0.49f);
            k = wp::max(k + 1, target);
            const float way = k * step;
            t = t0 + way;
        }
    }
    if (!writing) samples.count.data[ray] = found;
