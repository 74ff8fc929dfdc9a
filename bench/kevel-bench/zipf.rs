//! Zipf's distribution over `0..n`: rank r is drawn in proportion to 1 / (r + 1)^s.
//!
//! Rejection-inversion (Hörmann and Derflinger, 1996): no tables, a constant expected number of draws, any n.
#![forbid(unsafe_code)]

use kevel::stdx::prng::Prng;

use crate::pace::unit;

/// The distribution.
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    n: f64,
    s: f64,
    h_x1: f64,
    h_n: f64,
    /// Below this distance from its rank a point is accepted at once.
    near: f64,
}

impl Zipf {
    /// Ranks `0..n` with exponent `s`, which is positive; 0.99 is common.
    pub fn new(n: u64, s: f64) -> Self {
        assert!(n > 0 && s > 0.0, "something to draw from, falling");
        let n = n as f64;
        let near = 2.0 - h_inverse(h(2.5, s) - 2f64.powf(-s), s);
        Self { n, s, h_x1: h(1.5, s) - 1.0, h_n: h(n + 0.5, s), near }
    }

    /// A rank; 0 is the most frequent.
    pub fn draw(&self, prng: &mut Prng) -> u64 {
        loop {
            let u = self.h_n + unit(prng) * (self.h_x1 - self.h_n);
            let x = h_inverse(u, self.s);
            let rank = x.round().clamp(1.0, self.n);
            if rank - x <= self.near || u >= h(rank + 0.5, self.s) - rank.powf(-self.s) {
                return rank as u64 - 1;
            }
        }
    }
}

/// The integral of x^-s.
fn h(x: f64, s: f64) -> f64 {
    let log = x.ln();
    grow((1.0 - s) * log) * log
}

fn h_inverse(y: f64, s: f64) -> f64 {
    let t = (y * (1.0 - s)).max(-1.0);
    (shrink(t) * y).exp()
}

/// (e^x - 1) / x
fn grow(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x / 2.0 }
}

/// ln(1 + x) / x
fn shrink(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_as_often_as_they_should() {
        for s in [0.5, 0.99, 1.0, 1.5] {
            let (n, draws) = (100u64, 200_000);
            let zipf = Zipf::new(n, s);
            let mut prng = Prng::new(3);
            let mut counts = vec![0u32; n as usize];
            (0..draws).for_each(|_| counts[zipf.draw(&mut prng) as usize] += 1);
            let sum: f64 = (1..=n).map(|rank| (rank as f64).powf(-s)).sum();
            for rank in [1u64, 2, 3, 10, 50, 100] {
                let expected = f64::from(draws) * (rank as f64).powf(-s) / sum;
                let got = f64::from(counts[rank as usize - 1]);
                assert!(
                    (got - expected).abs() < 5.0 * expected.sqrt(),
                    "s {s} rank {rank}: {got}, not {expected}"
                );
            }
        }
    }
}
