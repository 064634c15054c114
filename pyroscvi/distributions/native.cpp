// log p(x | mu, theta, gate) of every cell, and its slopes, in one pass over the genes of a cell, which stay in the
// processor's cache. The formulas are those of terms.py, deviance.py and stirling.py, with the same letters.
//
// native.py puts the definitions that depend on the precision before this text: T, STEPS, BINET_*, SLOPE_* and ATANH.

#include <ATen/cpu/vec/vec.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <type_traits>
#include <vector>

namespace {

using V = at::vec::Vectorized<T>;
constexpr int64_t W = V::size();

const T MU_MAX = std::ldexp(T(1), 60), MU_MIN = std::ldexp(T(1), -90), LOG_MU_MIN = std::log(MU_MIN);
const T TINY = std::ldexp(T(1), -30);
constexpr int MAX_FACTORS = 4;  // the product of four numbers above TINY does not underflow

inline V where(V condition, V yes, V no) { return V::blendv(no, yes, condition); }
inline V exp(V a) { return a.exp_u20(); }  // less accurate than .exp(), but as accurate as the sums of its values
inline V positive(V a) { return at::vec::maximum(a, V(0)); }

// log(1 + a), given 1 / (1 + a). It uses log, which is faster than log1p, and adds back the rounding error of 1 + a.
inline V log1p(V a, V inverse) {
  const V above = V(1) + a;
  return above.log() + (a - (above - V(1))) * inverse;
}

inline V log1p(V a) { return log1p(a, V(1) / (V(1) + a)); }

template <size_t n>
inline V horner(const T (&coefficients)[n], V z) {
  V total(coefficients[n - 1]);
  for (int i = int(n) - 2; i >= 0; i--) total = at::vec::fmadd(total, z, V(coefficients[i]));
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

// A compensated sum of thousands of terms [Kahan, 1965], and the plain sum, which is used if a term is infinite
struct Sum {
  V total = V(0), lost = V(0), plain = V(0);
  void add(V term) {
    plain = plain + term;
    term = term - lost;
    const V next = total + term;
    lost = (next - total) - term;
    total = next;
  }
  T value() const {
    const T rough = reduce(plain, std::plus<T>());
    return std::isfinite(rough) ? reduce(total, std::plus<T>()) : rough;
  }
};

// The logarithm of a product of thousands of fractions top / bottom, with one logarithm for MAX_FACTORS of them
struct Product {
  V top = V(1), bottom = V(1);
  int factors = 0;
  void multiply(V p, V one, Sum& sum) {
    top = top * p;
    bottom = bottom * one;
    if (++factors == MAX_FACTORS) close(sum);
  }
  void close(Sum& sum) {
    sum.add((top / bottom).log());
    top = bottom = V(1);
    factors = 0;
  }
};

inline bool none(V mask) { return mask.zero_mask() == (1 << W) - 1; }

// The error J of Stirling's formula, and its slope

inline V binet(V a) {
  const V low = where(a < V(STEPS), V(1), V(0)), y = V(1) / (a + low * V(STEPS)), z = y * y;
  const V high = horner(BINET_TOP, z) / horner(BINET_BOTTOM, z) * y;
  if (none(low)) return high;
  const V top = a + V(STEPS);
  V product = (a + V(1)) / top;
  for (int i = 2; i < STEPS; i++) product = product * ((a + V(i)) / top);
  return high + low * (log1p(V(STEPS) / a) * (a + V(0.5)) - V(STEPS) - product.log());
}

inline V binet_slope(V a) {
  const V low = where(a < V(STEPS), V(1), V(0)), y = a + low * V(STEPS), z = V(1) / (y * y);
  const V high = V(0) - horner(SLOPE_TOP, z) / horner(SLOPE_BOTTOM, z) * z;
  if (none(low)) return high;
  V difference = log1p(V(STEPS) / a);
  for (int i = 0; i <= STEPS; i++) difference = difference - V(i == 0 || i == STEPS ? 0.5 : 1) / (a + V(i));
  return high + low * difference;
}

// The deviance form

inline V h(V u, V minus_log) {
  const V v = u / (V(2) - u), s = v * v;
  return where(v.abs() < V(0.3), (horner(ATANH, s) * s * V(2) + u) * v, minus_log - u);
}

inline V log_ratio(V x, V log_mu, V mu) {
  return (x / at::vec::maximum(mu, V(MU_MIN))).log() + positive(V(LOG_MU_MIN) - log_mu);
}

inline V best_poisson(V x) { return (x * V(2 * M_PI)).log() * V(-0.5) - binet(x); }

// An extra zero, which has probability pi = sigmoid(gate)

struct Zero {
  V p, one, log_p, weight, kept;  // P(0) = p exp(log_p) / one; weight = P(not extra | x = 0); kept = 1 - pi
};

inline V odd(V gate) { return exp(V(0) - gate.abs()); }

inline V kept(V gate) {  // 1 - pi
  const V e = odd(gate);
  return where(gate >= V(0), e, V(1)) / (V(1) + e);
}

inline V log_kept(V gate) { return V(0) - log1p(odd(gate)) - positive(gate); }

inline Zero far_zero(V gate, V log_p) {
  const V extra = log_kept(V(0) - gate), count = log_kept(gate) + log_p, f = odd(extra - count);
  return {V(1), V(1), at::vec::maximum(extra, count) + log1p(f), where(count >= extra, V(1), f) / (V(1) + f), kept(gate)};
}

// pi + (1 - pi) p = (a + b p) / (1 + e), where e = exp(-|gate|) and (a, b) = (1, e) if gate >= 0, else (e, 1). It is
// computed in logarithms if the numerator underflows.
inline Zero zero(V gate, V log_p) {
  const V e = odd(gate), one = V(1) + e, not_extra = where(gate >= V(0), e, V(1));
  const V count = not_extra * exp(log_p), total = where(gate >= V(0), V(1), e) + count;
  if (!none(total < V(TINY))) return far_zero(gate, log_p);
  return {total, one, V(0), count / total, not_extra / one};
}

// The rows [genes] of a parameter: none if it is absent, one for all cells, one a cell, or one a particle and cell
struct Given {
  const T* values;
  int64_t rows;
  const T* row(int64_t r, int64_t genes) const { return values + (rows < 2 ? 0 : r % rows) * genes; }
};

// Working memory for one cell: mu and d_mu for every gene, the others for its k counts above zero
struct Row {
  std::vector<T> mu, d_mu, x, best, logits, mus, thetas, gates, rest;
  std::vector<int32_t> at;
  int64_t k = 0;  // how many counts are above zero
  explicit Row(int64_t genes) : at(genes + W) {
    for (auto* v : {&mu, &d_mu, &x, &best, &logits, &mus, &thetas, &gates, &rest}) v->resize(genes + W, T(1));
  }
};

// Tables that all cells use: log p of the best fit to small counts; 1 / theta, J(theta) and J'(theta) of every gene
struct Tables {
  static constexpr int SMALL = 64;
  T best[SMALL];
  std::vector<T> inverse, remainder, slope;  // empty if cells differ in theta

  Tables(const T* theta, int64_t rows, int64_t genes) {
    for (int x = 0; x < SMALL; x++) best[x] = x;
    for (int x = 0; x < SMALL; x += W) best_poisson(V::loadu(best + x)).store(best + x);
    if (!theta || rows > 1) return;
    inverse.resize(genes + W);
    remainder.resize(genes + W);
    slope.resize(genes + W);
    for (int64_t g = 0; g < genes; g += W) {
      const V t = V::loadu(theta + g, std::min(W, genes - g));
      (V(1) / t).store(&inverse[g]);
      binet(t).store(&remainder[g]);
      binet_slope(t).store(&slope[g]);
    }
  }
};

struct Out {
  T *log_p, *d_mean, *d_size, *d_theta, *d_gate;  // one row for every particle and cell; slopes that are not wanted are null
};

struct Problem {
  const Tables& tables;
  Given mean, theta, gate;
  const T *x, *size;
  int64_t particles, cells, genes;

  // Calls f(g, n) for n <= W genes from g on. In all calls but the last n is W, as a compile-time constant.
  template <typename F>
  void each(F f) const {
    int64_t g = 0;
    for (; g + W <= genes; g += W) f(g, std::integral_constant<int64_t, W>());
    if (g < genes) f(g, genes - g);
  }

  static V first(V value, int64_t n, T others = 0) {  // the first n lanes of value; the other lanes are others
    return n == W ? value : V::set(V(others), value, n);
  }

  void find(int64_t cell, Row& row) const {
    const T* x_n = x + cell * genes;
    int32_t k = 0, *at = row.at.data();
    for (int64_t g = 0; g < genes; g += 64) {
      uint64_t above = 0;  // one bit for each of 64 genes
      for (int64_t i = g; i < std::min(g + 64, genes); i += W) {
        const int64_t n = std::min(W, genes - i);
        above |= uint64_t(~V::loadu(x_n + i, n).zero_mask() & ((1 << n) - 1)) << (i - g);
      }
      for (; above; above &= above - 1) at[k++] = g + __builtin_ctzll(above);
    }
    row.k = k;
    gather(x_n, row.x, row);
  }

  void gather(const T* from, std::vector<T>& to, const Row& row) const {
    for (int64_t j = 0; j < row.k; j++) to[j] = from[row.at[j]];
    std::fill_n(to.begin() + row.k, W, T(1));
  }

  void set_best(int64_t r, Row& row) const {
    bool all = true;
    for (int64_t j = 0; j < row.k; j++) {
      const T x = row.x[j];
      const bool tabled = x < Tables::SMALL && x == std::floor(x);
      row.best[j] = tabled ? tables.best[int(x)] : T(0);
      all &= tabled;
    }
    for (int64_t j = 0; j < row.k && !all; j += W) {
      const V x = V::loadu(&row.x[j]), b = V::loadu(&row.best[j]);
      where(b == V(0), best_poisson(x), b).store(&row.best[j]);
    }
    if (!theta.values) return;
    gather(theta.row(r, genes), row.thetas, row);
    remainder(binet, tables.remainder, row);
    for (int64_t j = 0; j < row.k; j += W) {
      const V x = V::loadu(&row.x[j]), t = V::loadu(&row.thetas[j]), rest = V::loadu(&row.rest[j]);
      (V::loadu(&row.best[j]) + binet(t + x) - rest - log1p(x / t) * V(0.5)).store(&row.best[j]);
    }
  }

  // row.rest = f(theta) at the counts above zero; row.thetas must be set
  template <typename F>
  void remainder(F f, const std::vector<T>& tabled, Row& row) const {
    if (!tabled.empty()) return gather(tabled.data(), row.rest, row);
    for (int64_t j = 0; j < row.k; j += W) f(V::loadu(&row.thetas[j])).store(&row.rest[j]);
  }

  struct Scale {
    T offset, to_mu, to_share;  // log mu = logit + offset; mu = to_mu * row.mu; share = to_share * mu
  };

  // Sets row.mu to exp(logits) up to a factor, and returns the factors that make means of it
  Scale means(int64_t r, Row& row) const {
    const T* logits = mean.row(r, genes);
    if (!size) {
      each([&](int64_t g, auto n) {
        at::vec::minimum(exp(V::loadu(logits + g, n)), V(MU_MAX)).store(&row.mu[g]);
      });
      return {0, 1, 1};
    }
    V top(logits[0]);
    Sum sum;
    each([&](int64_t g, auto n) { top = V::set(top, at::vec::maximum(top, V::loadu(logits + g, n)), n); });
    const T most = reduce(top, [](T a, T b) { return std::max(a, b); });
    each([&](int64_t g, auto n) {
      const V e = exp(V::loadu(logits + g, n) - V(most));
      sum.add(first(e, n));
      e.store(&row.mu[g]);
    });
    const T total = sum.value(), l = std::min(std::exp(size[r]), MU_MAX);
    return {size[r] - most - std::log(total), l / total, 1 / l};
  }

  // log p of a cell for all its particles, and its slopes in logits, log size, log theta and gate
  template <bool slopes>
  void read(int64_t cell, Row& row, const Out& out) const {
    const bool tabled = !tables.inverse.empty();
    find(cell, row);
    const T* x_n = x + cell * genes;
    for (int64_t s = 0; s < particles; s++) {
      const int64_t r = s * cells + cell;
      if (s == 0 || theta.rows > cells) set_best(r, row);  // particles share it
      const Scale scale = means(r, row);
      const T *th = theta.values ? theta.row(r, genes) : nullptr, *gt = gate.values ? gate.row(r, genes) : nullptr;
      T *d_mean = out.d_mean + r * genes, *d_theta = out.d_theta + r * genes, *d_gate = out.d_gate + r * genes;
      Sum sum, sum_d_mu;
      Product fractions;
      each([&](int64_t g, auto n) {  // zeros
        const V mu = V::loadu(&row.mu[g]) * V(scale.to_mu), is_zero = V::loadu(x_n + g, n) == V(0);
        mu.store(&row.mu[g]);
        V log_p = V(0) - mu, d_mu = log_p, d_th(0);
        if (th) {
          const V t = V::loadu(th + g, n), ratio = tabled ? mu * V::loadu(&tables.inverse[g]) : mu / t;
          const V inverse = V(1) / (V(1) + ratio);
          log_p = V(0) - t * log1p(ratio, inverse);
          if (slopes) {
            d_mu = d_mu * inverse;
            d_th = log_p - d_mu;
          }
        }
        if (gt) {
          const Zero both = zero(V::loadu(gt + g, n), log_p);
          log_p = both.log_p;
          const V p = where(is_zero, both.p, V(1)), one = where(is_zero, both.one, V(1));
          fractions.multiply(first(p, n, 1), first(one, n, 1), sum);
          if (slopes) {
            d_mu = d_mu * both.weight;
            d_th = d_th * both.weight;
            (both.kept - both.weight).store(d_gate + g, n);
          }
        }
        sum.add(first(where(is_zero, log_p, V(0)), n));
        if (slopes) {
          d_mu.store(&row.d_mu[g]);
          sum_d_mu.add(first(where(is_zero, d_mu, V(0)), n));
          if (th) d_th.store(d_theta + g, n);
        }
      });
      gather_parameters(r, row);
      if (slopes && th) remainder(binet_slope, tables.slope, row);
      for (int64_t j = 0; j < row.k; j += W) {  // counts above zero
        const int64_t n = std::min(W, row.k - j);
        const V x = V::loadu(&row.x[j]), mu = V::loadu(&row.mus[j]);
        const V log_mu = V::loadu(&row.logits[j]) + V(scale.offset);
        V d_mu = x - mu, u = d_mu / x, log_p = V::loadu(&row.best[j]), log_u = log_ratio(x, log_mu, mu);
        if (th) {
          const V t = V::loadu(&row.thetas[j]), total = t + x, fitted = t + mu, shrink = t / fitted;
          const V shift = (fitted / total).log(), cost = h((mu - x) / fitted, shift) * t;
          if (slopes) {
            const V rest = binet_slope(total) - V::loadu(&row.rest[j]);
            (rest * t - cost + x / total * V(0.5)).store(&row.thetas[j]);
          }
          log_p = log_p - cost;
          d_mu = d_mu * shrink;
          u = u * shrink;
          log_u = log_u + shift;
        }
        log_p = log_p - x * h(u, log_u);
        if (gt) {
          const V logit = V::loadu(&row.gates[j]);
          log_p = log_p - positive(logit);  // log(1 - pi) = -max(gate, 0) - log(1 + exp(-|gate|))
          fractions.multiply(V(1), first(V(1) + odd(logit), n, 1), sum);
          if (slopes) (kept(logit) - V(1)).store(&row.gates[j]);
        }
        sum.add(first(log_p, n));
        sum_d_mu.add(first(d_mu, n));
        d_mu.store(&row.mus[j]);
      }
      if (gt) fractions.close(sum);
      out.log_p[r] = sum.value();
      if (!slopes) continue;
      for (int64_t j = 0; j < row.k; j++) {
        const int64_t g = row.at[j];
        row.d_mu[g] = row.mus[j];
        if (th) d_theta[g] = row.thetas[j];
        if (gt) d_gate[g] = row.gates[j];
      }
      // chain rule of the softmax: d/d logits = d/d log mu - rho sum(d/d log mu)
      const T all = sum_d_mu.value();
      const V through(size ? all * scale.to_share : T(0));
      if (size) out.d_size[r] = all;
      each([&](int64_t g, auto n) {
        (V::loadu(&row.d_mu[g]) - V::loadu(&row.mu[g]) * through).store(d_mean + g, n);
      });
    }
  }

  void gather_parameters(int64_t r, Row& row) const {
    gather(mean.row(r, genes), row.logits, row);
    gather(row.mu.data(), row.mus, row);
    if (theta.values) gather(theta.row(r, genes), row.thetas, row);
    if (gate.values) gather(gate.row(r, genes), row.gates, row);
  }
};

}  // namespace

extern "C" void log_prob(const T* x, const T* mean, const T* size, const T* theta, const T* gate, T* log_p, T* d_mean,
                         T* d_size, T* d_theta, T* d_gate, const int64_t* rows, int64_t particles, int64_t cells,
                         int64_t genes, int threads) {
  const Tables tables(theta, rows[1], genes);
  const Problem p{tables, {mean, rows[0]}, {theta, rows[1]}, {gate, rows[2]}, x, size, particles, cells, genes};
  const Out out{log_p, d_mean, d_size, d_theta, d_gate};
#pragma omp parallel num_threads(threads)
  {
    Row row(genes);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < cells; n++) d_mean ? p.read<true>(n, row, out) : p.read<false>(n, row, out);
  }
}
