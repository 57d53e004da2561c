//! Charts, drawn as SVG on the server. Colours are placeholders (`#0000NN`) that the stylesheet replaces, so that a
//! chart follows light and dark; every value stands in a table beside it as well.

use std::fmt::{self, Display, Formatter, Write};

use askama::filters::HtmlSafe;
use plotters::{
    coord::{
        ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter},
        types::RangedCoordf64,
    },
    prelude::*,
};

const SIZE: (u32, u32) = (640, 220);
const FONT: (&str, u32) = ("sans-serif", 14);
const LINE: RGBColor = RGBColor(0, 0, 1);
const TEXT: RGBColor = RGBColor(0, 0, 2);
/// The first of the series; the others follow.
const SERIES: u8 = 0x10;
/// Series that are told apart; what is more is put together by whoever asks.
pub const MOST_SERIES: usize = 6;

/// A drawn chart. It holds numbers, and texts that were escaped as they were put in.
#[derive(Debug, Clone)]
pub struct Chart(String);

impl HtmlSafe for Chart {}

impl Display for Chart {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is drawn.
pub struct Drawing<'a> {
    /// What it shows, for those who cannot see it.
    pub label: &'a str,
    /// The name of each place on the horizontal axis.
    pub columns: &'a [String],
    /// Values for each column, a row for each series; the first [`MOST_SERIES`] count. `None`: there is none.
    pub series: &'a [Vec<Option<f64>>],
    /// What is told of a column to whoever points at it.
    pub told: &'a [String],
    /// How a value is written on the vertical axis.
    pub axis: fn(f64) -> String,
}

/// The vertical axis: from 0 up, with few round numbers.
struct Upwards {
    most: f64,
    write: fn(f64) -> String,
}

impl Ranged for Upwards {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value / self.most).clamp(0.0, 1.0);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let step = round_step(self.most);
        (0..)
            .map(|n| f64::from(n) * step)
            .take_while(|value| *value <= self.most)
            .take(12)
            .collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..self.most
    }
}

impl ValueFormatter<f64> for Upwards {
    fn format_ext(&self, value: &f64) -> String {
        (self.write)(*value)
    }
}

/// A fourth of the range, or a little more, that is 1, 2 or 5 times a power of ten.
fn round_step(most: f64) -> f64 {
    let rough = most / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough);
    factor.unwrap_or(10.0) * power
}

impl Drawing<'_> {
    /// Bars, those of one column on top of each other.
    pub fn bars(&self) -> Chart {
        let tops = (0..self.columns.len())
            .map(|column| self.series.iter().filter_map(|row| row.get(column)?.as_ref()).sum());
        self.draw(tops.fold(0.0, f64::max), |chart| {
            let mut floors = vec![0.0; self.columns.len()];
            for (row, number) in self.series.iter().zip(SERIES..) {
                let style = RGBColor(0, 0, number).filled();
                let bars = row.iter().zip(&mut floors).enumerate().filter_map(
                    |(column, (value, floor))| {
                        let (from, to) = (*floor, *floor + (*value)?.max(0.0));
                        *floor = to;
                        let left = column as f64 + 0.12;
                        (to > from)
                            .then(|| Rectangle::new([(left, from), (left + 0.76, to)], style))
                    },
                );
                chart.draw_series(bars)?;
            }
            Ok(())
        })
    }

    /// Lines, with a gap where a value is missing.
    pub fn lines(&self) -> Chart {
        let top = self.series.iter().flatten().flatten().copied().fold(0.0, f64::max);
        self.draw(top, |chart| {
            for (row, number) in self.series.iter().zip(SERIES..) {
                let style = RGBColor(0, 0, number).stroke_width(2);
                let points = |(at, value): (usize, &Option<f64>)| {
                    value.map(|value| (at as f64 + 0.5, value))
                };
                let all: Vec<Option<(f64, f64)>> = row.iter().enumerate().map(points).collect();
                for run in all.split(Option::is_none).filter(|run| !run.is_empty()) {
                    let run: Vec<(f64, f64)> = run.iter().flatten().copied().collect();
                    if let [alone] = run.as_slice() {
                        chart.draw_series([Circle::new(*alone, 3, style.filled())])?;
                    } else {
                        chart.draw_series(LineSeries::new(run, style))?;
                    }
                }
            }
            Ok(())
        })
    }

    fn draw(
        &self,
        top: f64,
        series: impl for<'a, 'b> Fn(&mut Area<'a, 'b>) -> Result<(), Error>,
    ) -> Chart {
        let mut svg = String::new();
        let drawn = (|| {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let most = if top > 0.0 { top * 1.05 } else { 1.0 };
            let across = 0.0..(self.columns.len().max(1) as f64);
            let mut chart = ChartBuilder::on(&root)
                .margin(6)
                .x_label_area_size(24)
                .y_label_area_size(64)
                .build_cartesian_2d(across, Upwards { most, write: self.axis })?;
            let name = |place: &f64| {
                let column = place.floor();
                let is_middle = (place - column - 0.5).abs() < 0.01;
                let name = self.columns.get(column as usize).filter(|_| is_middle);
                name.cloned().unwrap_or_default()
            };
            let style = FONT.into_font().color(&TEXT);
            chart
                .configure_mesh()
                .disable_x_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(LINE)
                .axis_style(LINE)
                .label_style(style.clone())
                .x_labels(0)
                .x_label_formatter(&name)
                .draw()?;
            series(&mut chart)?;
            let (x, y) = chart.plotting_area().get_pixel_range();
            root.present()?;
            Ok::<_, Error>((x, y))
        })();
        match drawn {
            Ok((x, y)) => Chart(self.finish(&svg, x, y)),
            Err(error) => {
                tracing::error!(%error, "a chart could not be drawn");
                Chart(String::new())
            }
        }
    }

    /// Adds the names of columns, and what is told of each; makes it fit where it is put.
    fn finish(&self, svg: &str, x: std::ops::Range<i32>, y: std::ops::Range<i32>) -> String {
        let body = svg.split_once('>').map_or("", |(_, body)| body);
        let body = body.trim_end().strip_suffix("</svg>").unwrap_or(body);
        // What goes without saying is a third of the bytes.
        let body = body.replace(" opacity=\"1\"", "").replace(" stroke=\"none\"", "");
        let (width, height) = SIZE;
        let mut out = String::with_capacity(body.len() + 256 * self.columns.len());
        let _infallible = write!(
            out,
            "<svg class=\"chart\" role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {width} {height}\">{body}",
            Escaped(self.label)
        );
        let each = f64::from(x.end - x.start) / self.columns.len().max(1) as f64;
        // As many names as have room.
        let every = (64.0 / each).ceil().max(1.0) as usize;
        for (at, name) in self.columns.iter().enumerate() {
            let left = f64::from(x.start) + each * at as f64;
            if at.is_multiple_of(every) {
                let _infallible = write!(
                    out,
                    "<text x=\"{:.0}\" y=\"{}\" text-anchor=\"middle\" font-size=\"14\" fill=\"#000002\">{}</text>",
                    left + each / 2.0,
                    y.end + 20,
                    Escaped(name)
                );
            }
            if let Some(told) = self.told.get(at) {
                let _infallible = write!(
                    out,
                    "<rect class=\"hit\" x=\"{left:.1}\" y=\"{}\" width=\"{each:.1}\" height=\"{}\"><title>{}</title></rect>",
                    y.start,
                    y.end - y.start,
                    Escaped(told)
                );
            }
        }
        out.push_str("</svg>");
        out
    }
}

type Area<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Upwards>>;
type Error = Box<dyn std::error::Error>;

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing(values: &[Option<f64>], draw: fn(&Drawing) -> Chart) -> String {
        let columns: Vec<String> = (0..values.len()).map(|day| format!("d{day}<")).collect();
        let told: Vec<String> =
            values.iter().map(|value| format!("{value:?} & \"more\"")).collect();
        let series = [values.to_vec(), values.to_vec()];
        draw(&Drawing {
            label: "Spend \"by day\" <script>",
            columns: &columns,
            series: &series,
            told: &told,
            axis: |value| format!("${value}"),
        })
        .to_string()
    }

    #[test]
    fn what_is_drawn_is_sound_whatever_the_values() {
        let many: Vec<Option<f64>> = (0..366).map(|day| Some(f64::from(day) * 1e9)).collect();
        let some: [&[Option<f64>]; 6] = [
            &[],
            &[None],
            &[Some(0.0)],
            &[Some(1e-9), None, Some(3.5), Some(2.0)],
            &[Some(-1.0), Some(f64::MAX / 4.0)],
            &many,
        ];
        let draws: [fn(&Drawing) -> Chart; 2] = [|of| of.bars(), |of| of.lines()];
        for values in some {
            for draw in draws {
                let svg = drawing(values, draw);

                assert!(
                    svg.starts_with("<svg class=\"chart\" role=\"img\"") && svg.ends_with("</svg>")
                );
                assert_eq!(svg.matches("<svg").count(), 1);
                assert_eq!(svg.matches("class=\"hit\"").count(), values.len());
                assert!(!svg.contains("<script") && !svg.contains("style="), "{svg}");
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn steps_of_an_axis_are_round_and_few() {
        for (most, step) in
            [(1.0, 0.5), (4.0, 1.0), (7.0, 2.0), (123.0, 50.0), (0.003, 0.001), (9e9, 5e9)]
        {
            let got = round_step(most);
            assert!((got - step).abs() < step / 1e6, "{most}: {got}");
        }
    }
}
