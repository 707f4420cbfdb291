//! Rows of a comparison, and how they are written down.

use serde_json::{Value, json};
use std::fmt::Write as _;

/// One problem, ours against one peer.
#[derive(Clone, Debug)]
pub struct Row {
    pub loss: String,
    pub n: usize,
    pub d: usize,
    pub peer: String,
    /// Seconds a step, in turn: ours and the peer's.
    pub times: Vec<(f64, f64)>,
    /// Processor seconds a step, all cores together: ours and the peer's.
    pub processor: Vec<(f64, f64)>,
    /// Seconds of the three products of a step alone, by the peer, in the same rounds.
    pub bare: Vec<f64>,
    /// Seconds of the three products' multiply-adds at the processor's rate, in the same rounds; empty
    /// on a device.
    pub peak: Vec<f64>,
    /// Bytes beyond inputs and gradients: ours and the peer's.
    pub memory: (f64, f64),
    /// How far the values are apart, relative to the largest.
    pub difference: Difference,
}

/// How far two sides' values are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// |a − b| / |b| of the losses.
    pub loss: f64,
    /// Largest |a − b| of the gradients over the largest |b|.
    pub gradient: f64,
}

impl Difference {
    /// Between ours and a peer's values; gradients of all sides back to back.
    pub fn of(loss: (f64, f64), gradients: (&[f32], &[f32])) -> Result<Self, String> {
        let (ours, theirs) = gradients;
        if ours.len() != theirs.len() {
            return Err(format!("{} gradient values against {}", ours.len(), theirs.len()));
        }
        let largest = theirs.iter().fold(0.0f64, |a, &b| a.max(f64::from(b).abs()));
        let mut apart = 0.0f64;
        for (&a, &b) in ours.iter().zip(theirs) {
            let difference = (f64::from(a) - f64::from(b)).abs();
            // NaN must show: a maximum would pass over it.
            if !difference.is_finite() {
                return Err("a gradient is not finite".into());
            }
            apart = apart.max(difference);
        }
        if !(loss.0.is_finite() && loss.1.is_finite()) {
            return Err(format!("losses {} and {}", loss.0, loss.1));
        }
        let relative = |apart: f64, size: f64| if apart == 0.0 { 0.0 } else { apart / size };
        Ok(Self {
            loss: relative((loss.0 - loss.1).abs(), loss.1.abs()),
            gradient: relative(apart, largest),
        })
    }

    /// An error if values of this type cannot be that far apart by rounding alone.
    pub fn check(&self, dtype: &str) -> Result<(), String> {
        let (loss, gradient) = match dtype {
            "f32" => (1e-5, 1e-4),
            // Peers round logits, weights or both to the type.
            _ => (2e-2, 6e-2),
        };
        if self.loss <= loss && self.gradient <= gradient {
            return Ok(());
        }
        Err(format!(
            "values differ: loss by {:.1e} of it (at most {loss:.0e}), gradients by {:.1e} of the \
             largest (at most {gradient:.0e})",
            self.loss, self.gradient
        ))
    }
}

/// The value in the middle; of an even number, the higher of the two.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Row {
    pub fn ours(&self) -> f64 {
        median(self.times.iter().map(|&(ours, _)| ours))
    }

    pub fn theirs(&self) -> f64 {
        median(self.times.iter().map(|&(_, theirs)| theirs))
    }

    /// How many times faster ours is, measured one right after the other: median and smallest.
    pub fn ratios(&self) -> (f64, f64) {
        let ratios = || self.times.iter().map(|(ours, theirs)| theirs / ours);
        (median(ratios()), ratios().fold(f64::INFINITY, f64::min))
    }

    /// The peer's processor time over ours, the median: what a busy machine changes least.
    pub fn processor_ratio(&self) -> f64 {
        median(self.processor.iter().map(|(ours, theirs)| theirs / ours))
    }

    /// The peer's time over that of its products alone, the median: the ratio of a step that did
    /// nothing else, as fast.
    pub fn bare_ratio(&self) -> f64 {
        median(self.times.iter().zip(&self.bare).map(|((_, theirs), bare)| theirs / bare))
    }

    /// The peer's time over that of the products' multiply-adds at the processor's rate, the median:
    /// no step of three products has a higher ratio.
    pub fn peak_ratio(&self) -> Option<f64> {
        let ratios = self.times.iter().zip(&self.peak).map(|((_, theirs), peak)| theirs / peak);
        (!self.peak.is_empty()).then(|| median(ratios))
    }

    /// Our extra memory over the peer's.
    pub fn memory_share(&self) -> f64 {
        self.memory.0 / self.memory.1
    }

    pub fn json(&self) -> Value {
        let (ratio, smallest) = self.ratios();
        json!({
            "loss": self.loss, "n": self.n, "m": self.n, "d": self.d, "peer": self.peer,
            "ours_seconds": self.ours(), "peer_seconds": self.theirs(),
            "ratio": ratio, "smallest_ratio": smallest, "rounds": self.times.len(),
            "processor_ratio": self.processor_ratio(), "products_ratio": self.bare_ratio(),
            "peak_ratio": self.peak_ratio(),
            "ours_bytes": self.memory.0, "peer_bytes": self.memory.1,
            "loss_difference": self.difference.loss,
            "gradient_difference": self.difference.gradient,
        })
    }
}

/// The rows as Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| loss | n = m | d | peer | ours | peer's | ratio (smallest) | of processor time | \
         products alone | at peak | memory, ours | peer's | share | gradients differ by |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let (ratio, smallest) = row.ratios();
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {ratio:.2} ({smallest:.2}) | {:.2} | {:.2} | {} | {} | {} | \
             {:.1}% | {:.0e} |",
            row.loss,
            thousands(row.n),
            row.d,
            row.peer,
            time(row.ours()),
            time(row.theirs()),
            row.processor_ratio(),
            row.bare_ratio(),
            row.peak_ratio().map_or("–".to_string(), |ratio| format!("{ratio:.2}")),
            mib(row.memory.0),
            mib(row.memory.1),
            100.0 * row.memory_share(),
            row.difference.gradient,
        );
    }
    text
}

/// Rows that miss what was asked: a smallest speed ratio, a largest share of memory.
pub fn misses(rows: &[Row], ratio: Option<f64>, share: Option<f64>) -> Vec<String> {
    let mut misses = Vec::new();
    for row in rows {
        let problem = format!("{} at n = {}, d = {} against {}", row.loss, row.n, row.d, row.peer);
        let (found, _) = row.ratios();
        // What is not a number misses, too.
        if ratio.is_some_and(|wanted| found < wanted || found.is_nan()) {
            misses.push(format!("{problem}: {found:.2} times as fast"));
        }
        let taken = row.memory_share();
        if share.is_some_and(|wanted| taken > wanted || taken.is_nan()) {
            misses.push(format!("{problem}: {:.1}% of the memory", 100.0 * taken));
        }
    }
    misses
}

/// 32768 as 32,768.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-2 => format!("{:.0} ms", s * 1e3),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

fn mib(bytes: f64) -> String {
    let mib = bytes / f64::from(1 << 20);
    if mib >= 10.0 { format!("{mib:.0} MiB") } else { format!("{mib:.1} MiB") }
}
