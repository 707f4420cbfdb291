//! The closing table and the picture.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use metric_kernels::metrics::Histogram;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::experiment::Outcome;

/// All runs of one loss.
pub struct Runs {
    pub name: String,
    pub scale: Option<f32>,
    /// One a seed.
    pub outcomes: Vec<Outcome>,
}

impl Runs {
    /// Mean over seeds.
    pub fn mean(&self, value: impl Fn(&Outcome) -> f64) -> f64 {
        self.outcomes.iter().map(value).sum::<f64>() / self.outcomes.len() as f64
    }

    /// Mean over seeds, and their standard deviation where there are several.
    fn cell(&self, value: impl Fn(&Outcome) -> f64) -> String {
        let mean = self.mean(&value);
        if self.outcomes.len() < 2 {
            return format!("{mean:.4}");
        }
        let square = |outcome: &Outcome| (value(outcome) - mean).powi(2);
        let sum: f64 = self.outcomes.iter().map(square).sum();
        format!("{mean:.4} ± {:.4}", (sum / (self.outcomes.len() - 1) as f64).sqrt())
    }
}

/// One line a loss.
pub fn table(title: &str, runs: &[Runs]) -> String {
    let known = runs.iter().flat_map(|run| &run.outcomes).any(|outcome| outcome.known.is_some());
    let mut head = vec!["loss", "scale", "Recall@1", "Recall@5", "AP, all pairs", "s/step"];
    if known {
        head.extend(["known: Recall@1", "known: AP"]);
    }
    let mut lines = vec![head.iter().map(ToString::to_string).collect::<Vec<_>>()];
    for run in runs {
        let mut line = vec![
            run.name.clone(),
            run.scale.map_or("–".into(), |scale| scale.to_string()),
            run.cell(|outcome| outcome.recall[0]),
            run.cell(|outcome| outcome.recall[1]),
            run.cell(|outcome| outcome.average_precision),
            run.scale.map_or("–".into(), |_| format!("{:.4}", run.mean(|o| o.seconds_per_step))),
        ];
        if known {
            line.extend([0, 1].map(|which| run.cell(|o| o.known.map_or(f64::NAN, |k| k[which]))));
        }
        lines.push(line);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = format!("{title}\n");
    for line in &lines {
        for (cell, &width) in line.iter().zip(&widths) {
            let _ = write!(text, "  {cell:width$}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

const POSITIVE: RGBColor = RGBColor(0, 114, 178);
const NEGATIVE: RGBColor = RGBColor(213, 94, 0);
const CURVES: [RGBColor; 2] = [RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// Histograms of each loss's similarities (its first seed), and all precision-recall curves.
pub fn picture(path: &Path, runs: &[Runs]) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let panels = runs.len() + 1;
    let area = SVGBackend::new(path, (480 * panels as u32, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let areas = area.split_evenly((1, panels));
    for (run, area) in runs.iter().zip(&areas) {
        if let Some(outcome) = run.outcomes.first() {
            similarities(area, run, &outcome.histogram)?;
        }
    }
    curves(&areas[runs.len()], runs)?;
    area.present()?;
    Ok(())
}

fn similarities<D: DrawingBackend>(
    area: &DrawingArea<D, Shift>,
    run: &Runs,
    histogram: &Histogram,
) -> Result<(), Box<dyn Error>>
where
    D::ErrorType: 'static,
{
    let width = f64::from(histogram.high - histogram.low) / histogram.positives.len() as f64;
    // Negatives outnumber positives by far: both are drawn with an area of 1.
    let density = |counts: &[u64]| -> Vec<f64> {
        let total: u64 = counts.iter().sum();
        counts.iter().map(|&count| count as f64 / (total.max(1) as f64 * width)).collect()
    };
    let sides = [
        ("negative pairs", NEGATIVE, density(&histogram.negatives)),
        ("positive pairs", POSITIVE, density(&histogram.positives)),
    ];
    let top = sides.iter().flat_map(|side| &side.2).fold(0.0f64, |top, &bar| top.max(bar));

    let mut chart = ChartBuilder::on(area)
        .caption(&run.name, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(48)
        .build_cartesian_2d(f64::from(histogram.low)..f64::from(histogram.high), 0.0..top * 1.05)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc("cosine similarity")
        .y_desc("density")
        .x_labels(5)
        .y_labels(6)
        .draw()?;
    for (name, colour, bars) in sides {
        let bar = |(number, height): (usize, f64)| {
            let left = f64::from(histogram.low) + number as f64 * width;
            Rectangle::new([(left, 0.0), (left + width, height)], colour.mix(0.5).filled())
        };
        chart.draw_series(bars.into_iter().enumerate().map(bar))?.label(name).legend(
            move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.mix(0.5).filled()),
        );
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}

fn curves<D: DrawingBackend>(
    area: &DrawingArea<D, Shift>,
    runs: &[Runs],
) -> Result<(), Box<dyn Error>>
where
    D::ErrorType: 'static,
{
    let mut chart = ChartBuilder::on(area)
        .caption("One threshold for all queries", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
    chart
        .configure_mesh()
        .x_desc("recall")
        .y_desc("precision")
        .x_labels(5)
        .y_labels(5)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (run, colour) in runs.iter().zip(CURVES.into_iter().cycle()) {
        for (seed, outcome) in run.outcomes.iter().enumerate() {
            let curve = &outcome.curve;
            // More points than pixels would only make the file large.
            let step = curve.recall.len().div_ceil(600).max(1);
            let points = curve.recall.iter().copied().zip(curve.precision.iter().copied());
            let series =
                chart.draw_series(LineSeries::new(points.step_by(step), colour.stroke_width(2)))?;
            if seed == 0 {
                let mean = run.mean(|outcome| outcome.average_precision);
                series
                    .label(format!("{}, AP {mean:.3}", run.name))
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour));
            }
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
