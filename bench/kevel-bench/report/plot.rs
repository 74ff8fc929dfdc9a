//! Two plots in one picture: latency by percentile per class, and throughput over time.
#![forbid(unsafe_code)]

use plotters::prelude::*;

use crate::phase::Outcome;

const SIZE: (u32, u32) = (1000, 800);
const COLORS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(23, 190, 207),
    RGBColor(140, 86, 75),
    RGBColor(90, 90, 90),
];
const FONT: (&str, u32) = ("sans-serif", 16);

/// The picture as SVG.
///
/// # Errors
/// What the drawing library cannot do.
pub fn plot(outcome: &Outcome) -> Result<String, String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(|error| error.to_string())?;
        let (upper, lower) = area.split_vertically(SIZE.1 / 2);
        latency(&upper, outcome).map_err(|error| error.to_string())?;
        throughput(&lower, outcome).map_err(|error| error.to_string())?;
        area.present().map_err(|error| error.to_string())?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// x is the number of nines: 1 is p90, 2 is p99.
fn latency(area: &Area<'_>, outcome: &Outcome) -> Drawn {
    let classes: Vec<_> = outcome.record.classes.iter().filter(|class| !class.latency.is_empty()).collect();
    let most = classes.iter().map(|class| class.latency.len()).max().unwrap_or(1).max(10);
    let nines = (most as f64).log10().min(6.0);
    let lowest =
        classes.iter().map(|class| class.latency.min()).min().unwrap_or(1_000).max(1_000) as f64 / 1e6;
    let highest = classes.iter().map(|class| class.latency.max()).max().unwrap_or(1_000) as f64 / 1e6;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}: latency by percentile", outcome.name), FONT)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..nines, (lowest..(highest * 1.1).max(lowest * 2.0)).log_scale())?;
    chart
        .configure_mesh()
        .x_labels(nines.ceil() as usize + 1)
        .x_label_formatter(&percentile)
        .y_desc("ms")
        .y_label_formatter(&|millis| format!("{millis}"))
        .draw()?;
    for (class, color) in classes.iter().zip(COLORS.iter().cycle()) {
        let reach = (class.latency.len() as f64).log10().min(nines);
        let points = (0..=200).map(|step| {
            let x = reach * f64::from(step) / 200.0;
            (x, (class.latency.value_at_quantile(1.0 - 10f64.powf(-x)) as f64 / 1e6).max(lowest))
        });
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(class.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// The label of a number of nines.
fn percentile(nines: &f64) -> String {
    let percent = 100.0 * (1.0 - 10f64.powf(-nines));
    let digits = (nines - 2.0).ceil().max(0.0) as usize;
    format!("p{percent:.digits$}")
}

fn throughput(area: &Area<'_>, outcome: &Outcome) -> Drawn {
    let points: Vec<(f64, f64)> = outcome
        .series
        .iter()
        .map(|interval| (interval.at, interval.latency.len() as f64 / interval.seconds.max(1e-9)))
        .collect();
    let end = points.last().map_or(1.0, |point| point.0).max(1e-3);
    let most = points.iter().map(|point| point.1).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("operations per second", FONT)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..end, 0.0..most * 1.1)?;
    chart.configure_mesh().x_desc("s").draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), COLORS[0].stroke_width(2)))?;
    chart.draw_series(points.iter().map(|&point| Circle::new(point, 2, COLORS[0].filled())))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn nines_are_labelled() {
        let labels: Vec<String> = [0.0, 1.0, 2.0, 3.0, 4.0].iter().map(percentile).collect();
        assert_eq!(labels, ["p0", "p90", "p99", "p99.9", "p99.99"]);
    }
}
