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
    let shown: Vec<(&Runs, &Histogram)> =
        runs.iter().filter_map(|run| Some((run, &run.outcomes.first()?.histogram))).collect();
    let highest = shown.iter().flat_map(|(_, histogram)| densities(histogram)).flatten();
    let top = highest.fold(0.0f64, f64::max);
    for ((run, histogram), area) in shown.into_iter().zip(&areas) {
        similarities(area, run, histogram, top)?;
    }
    curves(&areas[runs.len()], runs)?;
    area.present()?;
    Ok(())
}

/// Heights of negatives and positives, each with an area of 1: negatives outnumber positives by far.
fn densities(histogram: &Histogram) -> [Vec<f64>; 2] {
    [&histogram.negatives, &histogram.positives].map(|counts| {
        let area = counts.iter().sum::<u64>().max(1) as f64 * bin_width(histogram);
        counts.iter().map(|&count| count as f64 / area).collect()
    })
}

fn bin_width(histogram: &Histogram) -> f64 {
    f64::from(histogram.high - histogram.low) / histogram.positives.len() as f64
}

fn similarities<D: DrawingBackend>(
    area: &DrawingArea<D, Shift>,
    run: &Runs,
    histogram: &Histogram,
    top: f64,
) -> Result<(), Box<dyn Error>>
where
    D::ErrorType: 'static,
{
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
        .x_labels(10)
        .y_labels(6)
        .light_line_style(TRANSPARENT)
        .draw()?;
    let width = bin_width(histogram);
    let names = [("negative pairs", NEGATIVE), ("positive pairs", POSITIVE)];
    for ((name, colour), bars) in names.into_iter().zip(densities(histogram)) {
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
    // The first few pairs of a ranking say little, and say it loudly: curves begin at 2% recall.
    let points = |outcome: &Outcome| {
        let curve = &outcome.curve;
        let pairs = curve.recall.iter().copied().zip(curve.precision.iter().copied());
        pairs.filter(|&(recall, _)| recall >= 0.02).collect::<Vec<_>>()
    };
    let highest = runs.iter().flat_map(|run| &run.outcomes).flat_map(points);
    let top = highest.fold(0.0, |top, (_, precision)| precision.max(top)) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .caption("One threshold for all queries", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..1.0, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("recall")
        .y_desc("precision")
        .x_labels(11)
        .y_labels(6)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (run, colour) in runs.iter().zip(CURVES.into_iter().cycle()) {
        for (seed, outcome) in run.outcomes.iter().enumerate() {
            let curve = points(outcome);
            // More points than pixels would only make the file large.
            let step = curve.len().div_ceil(600).max(1);
            let series = chart.draw_series(LineSeries::new(
                curve.into_iter().step_by(step),
                colour.stroke_width(2),
            ))?;
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
