//! What the benchmarks share: engines, inputs, plain products, the machine's description.
#![allow(dead_code, reason = "no benchmark uses all of it")]

pub mod cublas;
pub mod machine;
pub mod peak;
pub mod place;
pub mod plain;

/// n·d numbers, rows of length 1, the same for the same seed.
pub fn unit_rows(n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rows: Vec<f32> = (0..n * d).map(|_| random.f32() - 0.5).collect();
    for row in rows.chunks_mut(d) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    rows
}

/// The labels that every benchmark uses: eight rows a class.
pub fn labels(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| i / 8).collect()
}

/// The value in the middle; of an even number, the higher of the two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Raw numbers of a file, as this machine lays them out.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let word = |chunk: &[u8]| f32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    bytes.chunks_exact(4).map(word).collect()
}
