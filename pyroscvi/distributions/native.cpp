// log p(x | mu, theta, gate) of every cell and its slopes: terms.py, deviance.py and stirling.py in one pass over a cell,
// whose genes stay in the processor's cache meanwhile. The formulas are explained there, and the letters are the same.
//
// Before this text comes what differs by precision: T, CLIMB, and the coefficients BINET_*, SLOPE_* and ATANH.

#include <ATen/cpu/vec/vec.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

namespace {

using V = at::vec::Vectorized<T>;
constexpr int64_t W = V::size();

const T MU_MAX = std::ldexp(T(1), 60), FAINT = std::ldexp(T(1), -90), LOG_FAINT = std::log(FAINT);

inline V where(V condition, V yes, V no) { return V::blendv(no, yes, condition); }
inline V positive(V a) { return at::vec::maximum(a, V(0)); }

// log(1 + a) by way of log, which is faster: what 1 + a rounded away is put back [Kahan; see Goldberg, 1991].
inline V log1p(V a) {
  const V above = V(1) + a, kept = above - V(1);
  return where(kept == V(0), a, above.log() * (a / kept));
}

template <size_t n>
inline V horner(const T (&coefficients)[n], V z) {
  V total(coefficients[n - 1]);
  for (int i = int(n) - 2; i >= 0; i--) total = total * z + V(coefficients[i]);
  return total;
}

template <typename F>
inline T reduce(V lanes, F join) {
  T values[W], all;
  lanes.store(values);
  all = values[0];
  for (int i = 1; i < W; i++) all = join(all, values[i]);
  return all;
}

inline bool none(V mask) { return mask.zero_mask() == (1 << W) - 1; }

// Stirling's remainder J and its slope

inline V binet(V a) {
  const V low = where(a < V(CLIMB), V(1), V(0)), y = V(1) / (a + low * V(CLIMB)), z = y * y;
  const V high = horner(BINET_TOP, z) / horner(BINET_BOTTOM, z) * y;
  if (none(low)) return high;
  const V top = a + V(CLIMB);
  V product = (a + V(1)) / top;
  for (int i = 2; i < CLIMB; i++) product = product * ((a + V(i)) / top);
  return high + low * (log1p(V(CLIMB) / a) * (a + V(0.5)) - V(CLIMB) - product.log());
}

inline V binet_slope(V a) {
  const V low = where(a < V(CLIMB), V(1), V(0)), y = a + low * V(CLIMB), z = V(1) / (y * y);
  const V high = V(0) - horner(SLOPE_TOP, z) / horner(SLOPE_BOTTOM, z) * z;
  if (none(low)) return high;
  V climb = log1p(V(CLIMB) / a);
  for (int i = 0; i <= CLIMB; i++) climb = climb - V(i == 0 || i == CLIMB ? 0.5 : 1) / (a + V(i));
  return high + low * climb;
}

// The deviance

inline V h(V u, V minus_log) {
  const V v = u / (V(2) - u), s = v * v;
  return where(v.abs() < V(0.3), (horner(ATANH, s) * s * V(2) + u) * v, minus_log - u);
}

inline V log_ratio(V x, V log_mu, V mu) {
  return (x / at::vec::maximum(mu, V(FAINT))).log() + positive(V(LOG_FAINT) - log_mu);
}

inline V best(V x, V theta, bool poisson) {
  const V fit = (x * V(2 * M_PI)).log() * V(-0.5) - binet(x);
  return poisson ? fit : fit + binet(theta + x) - binet(theta) - log1p(x / theta) * V(0.5);
}

// An extra zero: everything that a gate and log p(0) say

struct Mixed {
  V log_p, kept, slope, weight;  // log P(0), log(1 - pi), 1 - pi, P(not extra | x = 0)
};

inline Mixed mixed(V gate, V log_p) {
  const V e = (V(0) - gate.abs()).exp(), tail = V(0) - log1p(e), up = V(1) / (V(1) + e);
  const V extra = tail - positive(V(0) - gate), kept = tail - positive(gate);
  const V odds = log_p - gate, f = (V(0) - odds.abs()).exp(), share = V(1) / (V(1) + f);
  return {at::vec::maximum(extra, kept + log_p) + log1p(f), kept, where(gate >= V(0), e * up, up),
          where(odds >= V(0), share, f * share)};
}

struct Given {  // a parameter: how many rows it has, which are those of the cells in turn; none is an absent one
  const T* values;
  int64_t rows;
  const T* row(int64_t r, int64_t genes) const { return values + (rows == 1 ? 0 : r % rows) * genes; }
};

struct Slopes {  // where d/d parameter goes: to its row, or to a thread's own sum where all cells share one
  T* values;
  int64_t rows;
  T* row(int64_t r, int64_t genes, T* own) const { return rows == 1 ? own : values + r % rows * genes; }
};

// What is said of one cell, gene by gene; a few rows of this many numbers fit into the first cache
struct Row {
  std::vector<T> mu, log_p, d_mu, d_theta, d_gate;
  std::vector<T> x, best, nonzero[5];
  std::vector<int64_t> at;
  explicit Row(int64_t genes) {
    for (auto* v : {&mu, &log_p, &d_mu, &d_theta, &d_gate, &x, &best}) v->resize(genes + W);
    for (auto& v : nonzero) v.resize(genes + W);
    at.resize(genes + W);
  }
};

struct Problem {
  const T *x, *size, *weight;
  Given mean, theta, gate;
  T* log_p;
  Slopes d_mean, d_theta, d_gate;
  T* d_size;
  int64_t particles, cells, genes;

  // Where the cell's counts are, in order; returns how many
  int64_t find(int64_t cell, Row& row) const {
    const T* x_n = x + cell * genes;
    int64_t k = 0;
    for (int64_t g = 0; g < genes; g++) {
      row.at[k] = g;
      k += x_n[g] != 0;
    }
    for (int64_t j = 0; j < k; j++) row.x[j] = x_n[row.at[j]];
    std::fill_n(row.x.begin() + k, W, T(1));
    return k;
  }

  void gather(const T* from, T* to, const Row& row, int64_t k) const {
    for (int64_t j = 0; j < k; j++) to[j] = from[row.at[j]];
    std::fill_n(to + k, W, T(1));
  }

  void remember_best(int64_t r, Row& row, int64_t k) const {
    T* theta_x = row.nonzero[0].data();
    if (theta.values) gather(theta.row(r, genes), theta_x, row, k);
    for (int64_t j = 0; j < k; j += W)
      best(V::loadu(&row.x[j]), V::loadu(theta_x + j), !theta.values).store(&row.best[j]);
  }

  // mu of all genes; returns what is to be added to a logit to make it log mu, and what makes mu a share
  std::pair<T, T> means(int64_t r, Row& row) const {
    const T* logits = mean.row(r, genes);
    T offset = 0, scale = 1, unscale = 1;
    T* mu = row.mu.data();
    V top(-std::numeric_limits<T>::infinity()), sum(0);
    int64_t g = 0;
    if (size) {
      for (; g + W <= genes; g += W) top = at::vec::maximum(top, V::loadu(logits + g));
      T most = reduce(top, [](T a, T b) { return std::max(a, b); });
      for (; g < genes; g++) most = std::max(most, logits[g]);
      offset = -most;
    }
    for (g = 0; g < genes; g += W) {
      const int64_t n = std::min(W, genes - g);
      const V e = (V::loadu(logits + g, n) + V(offset)).exp();
      at::vec::minimum(e, V(MU_MAX)).store(mu + g, n);
    }
    if (!size) return {0, 1};
    for (g = 0; g + W <= genes; g += W) sum = sum + V::loadu(mu + g);
    T total = reduce(sum, std::plus<T>());
    for (; g < genes; g++) total += mu[g];
    const T l = std::min(std::exp(size[r]), MU_MAX);
    scale = l / total;
    unscale = 1 / l;
    for (g = 0; g < genes; g += W) (V::loadu(mu + g) * V(scale)).store(mu + g);
    return {size[r] + offset - std::log(total), unscale};
  }

  template <bool slopes>
  void zeros(int64_t r, Row& row) const {
    const T *th = theta.values ? theta.row(r, genes) : nullptr, *gt = gate.values ? gate.row(r, genes) : nullptr;
    for (int64_t g = 0; g < genes; g += W) {
      const int64_t n = std::min(W, genes - g);
      const V mu = V::loadu(&row.mu[g]);
      V log_p = V(0) - mu, d_mu = log_p, d_theta(0);
      if (th) {
        const V t = V::loadu(th + g, n), ratio = mu / t;
        log_p = V(0) - t * log1p(ratio);
        if (slopes) {
          d_mu = d_mu / (V(1) + ratio);
          d_theta = log_p - d_mu;
        }
      }
      if (gt) {
        const Mixed m = mixed(V::loadu(gt + g, n), log_p);
        log_p = m.log_p;
        if (slopes) {
          d_mu = d_mu * m.weight;
          d_theta = d_theta * m.weight;
          (m.slope - m.weight).store(&row.d_gate[g]);
        }
      }
      if (!slopes) log_p.store(&row.log_p[g]);
      if (slopes) d_mu.store(&row.d_mu[g]);
      if (slopes && th) d_theta.store(&row.d_theta[g]);
    }
  }

  template <bool slopes>
  void counts(int64_t r, Row& row, int64_t k, T offset) const {
    T *logits = row.nonzero[0].data(), *mus = row.nonzero[1].data(), *thetas = row.nonzero[2].data();
    T *gates = row.nonzero[3].data(), *out = row.nonzero[4].data();
    gather(mean.row(r, genes), logits, row, k);
    gather(row.mu.data(), mus, row, k);
    if (theta.values) gather(theta.row(r, genes), thetas, row, k);
    if (gate.values) gather(gate.row(r, genes), gates, row, k);
    for (int64_t j = 0; j < k; j += W) {
      const V x = V::loadu(&row.x[j]), mu = V::loadu(mus + j), log_mu = V::loadu(logits + j) + V(offset);
      V excess = x - mu, cost, d_theta(0);
      if (theta.values) {
        const V t = V::loadu(thetas + j), total = t + x, fitted = t + mu, shrink = t / fitted;
        const V shift = (fitted / total).log(), theta_h = h((V(0) - excess) / fitted, shift) * t;
        cost = x * h(excess / x * shrink, log_ratio(x, log_mu, mu) + shift) + theta_h;
        if (slopes) d_theta = (binet_slope(total) - binet_slope(t)) * t - theta_h + x / total * V(0.5);
        excess = excess * shrink;
      } else if (!slopes) {
        cost = x * h(excess / x, log_ratio(x, log_mu, mu));
      }
      if (!slopes) {
        V log_p = V::loadu(&row.best[j]) - cost;
        if (gate.values) log_p = log_p + mixed(V::loadu(gates + j), V(0)).kept;
        log_p.store(out + j);
      } else {
        excess.store(mus + j);
        d_theta.store(thetas + j);
        if (gate.values) (mixed(V::loadu(gates + j), V(0)).slope - V(1)).store(gates + j);
      }
    }
    auto put = [&](const T* from, std::vector<T>& to) {
      for (int64_t j = 0; j < k; j++) to[row.at[j]] = from[j];
    };
    if (!slopes) return put(out, row.log_p);
    put(mus, row.d_mu);
    if (theta.values) put(thetas, row.d_theta);
    if (gate.values) put(gates, row.d_gate);
  }

  T total(const T* values) const {
    V sum(0);
    int64_t g = 0;
    for (; g + W <= genes; g += W) sum = sum + V::loadu(values + g);
    T all = reduce(sum, std::plus<T>());
    for (; g < genes; g++) all += values[g];
    return all;
  }

  // to = w from, or to += w from where rows are summed
  void weigh(const T* from, T w, T* to, bool add) const {
    for (int64_t g = 0; g < genes; g += W) {
      const int64_t n = std::min(W, genes - g);
      V value = V::loadu(from + g, n) * V(w);
      if (add) value = value + V::loadu(to + g, n);
      value.store(to + g, n);
    }
  }

  void forward(int64_t cell, Row& row) const {
    const int64_t k = find(cell, row);
    for (int64_t s = 0; s < particles; s++) {
      const int64_t r = s * cells + cell;
      if (s == 0 || theta.rows > cells) remember_best(r, row, k);  // particles share it
      const T offset = means(r, row).first;
      zeros<false>(r, row);
      counts<false>(r, row, k, offset);
      log_p[r] = total(row.log_p.data());
    }
  }

  void backward(int64_t cell, Row& row, T* own_mean, T* own_theta, T* own_gate) const {
    const int64_t k = find(cell, row);
    for (int64_t s = 0; s < particles; s++) {
      const int64_t r = s * cells + cell, rows = particles * cells;
      const T w = weight[r];
      const auto [offset, unscale] = means(r, row);
      zeros<true>(r, row);
      counts<true>(r, row, k, offset);
      if (size) {  // through the softmax: d/d logits = d/d log mu - rho sum(d/d log mu)
        const T all = total(row.d_mu.data());
        d_size[r] = w * all;
        for (int64_t g = 0; g < genes; g += W)
          (V::loadu(&row.d_mu[g]) - V::loadu(&row.mu[g]) * V(unscale * all)).store(&row.d_mu[g]);
      }
      weigh(row.d_mu.data(), w, d_mean.row(r, genes, own_mean), d_mean.rows != rows || rows == 1);
      if (theta.values) weigh(row.d_theta.data(), w, d_theta.row(r, genes, own_theta), d_theta.rows != rows || rows == 1);
      if (gate.values) weigh(row.d_gate.data(), w, d_gate.row(r, genes, own_gate), d_gate.rows != rows || rows == 1);
    }
  }
};

}  // namespace

extern "C" void log_prob(const T* x, const T* mean, const T* size, const T* theta, const T* gate, T* log_p,
                         const int64_t* rows, int64_t particles, int64_t cells, int64_t genes, int threads) {
  const Problem p{x,  size, nullptr, {mean, rows[0]}, {theta, rows[1]}, {gate, rows[2]}, log_p, {}, {}, {}, nullptr, particles,
                  cells, genes};
#pragma omp parallel num_threads(threads)
  {
    Row row(genes);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < cells; n++) p.forward(n, row);
  }
}

// The slopes of sum(weight log p) in the logits, log size, log theta and gate; the outputs start at zero.
extern "C" void slopes(const T* x, const T* mean, const T* size, const T* theta, const T* gate, const T* weight, T* d_mean,
                       T* d_size, T* d_theta, T* d_gate, const int64_t* rows, int64_t particles, int64_t cells,
                       int64_t genes, int threads) {
  const Problem p{x,     size,           weight,           {mean, rows[0]},   {theta, rows[1]}, {gate, rows[2]}, nullptr,
                  {d_mean, rows[0]}, {d_theta, rows[1]}, {d_gate, rows[2]}, d_size, particles, cells, genes};
  T* shared[3] = {d_mean, d_theta, d_gate};
  std::vector<std::vector<T>> sums(threads);  // of each thread, added up in order: the answer does not vary by chance
#pragma omp parallel num_threads(threads)
  {
    Row row(genes);
    std::vector<T>& own = sums[omp_get_thread_num()];
    own.assign(3 * genes, 0);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < cells; n++) p.backward(n, row, &own[0], &own[genes], &own[2 * genes]);
  }
  for (const auto& own : sums)
    for (int i = 0; i < 3; i++)
      if (shared[i] && rows[i] == 1 && !own.empty())
        for (int64_t g = 0; g < genes; g++) shared[i][g] += own[i * genes + g];
}
