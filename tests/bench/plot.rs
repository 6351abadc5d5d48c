//! A plot with two logarithmic axes as SVG: lines with their points and values, in colours that can be read on a light
//! and on a dark page. Pure, and the same for the same figures.

use std::fmt::Write as _;

/// Size of the picture, and its margins.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 180.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// Bright enough for black, dark enough for white.
const COLOURS: [&str; 4] = ["#3b82f6", "#e8590c", "#2b9348", "#a855f7"];
const STYLE: &str = "text{font:12px sans-serif;fill:#333}.axis{stroke:#333}.grid{stroke:#ccc}.line{fill:none;stroke-width:2}\
@media(prefers-color-scheme:dark){text{fill:#ddd}.axis{stroke:#ddd}.grid{stroke:#444}}";

pub struct Line {
    pub name: &'static str,
    pub points: Vec<Point>,
}

pub struct Point {
    pub x: f64,
    pub y: f64,
}

/// From values to places, with whole decades at both ends.
pub struct Scale {
    /// Powers of ten.
    first: f64,
    last: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// `from` and `to` are where the first and the last decade lie.
    pub fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (least, most) =
            values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
        let first = least.log10().floor();
        Self { first, last: most.log10().ceil().max(first + 1.0), from, to }
    }

    pub fn at(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.first) / (self.last - self.first) * (self.to - self.from)
    }

    /// 10, 100, …
    pub fn decades(&self) -> Vec<f64> {
        (self.first as i32..=self.last as i32).map(|power| 10_f64.powi(power)).collect()
    }
}

pub fn svg(title: &str, x_axis: &str, y_axis: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x = Scale::new(points().map(|point| point.x), LEFT, right);
    let y = Scale::new(points().map(|point| point.y), bottom, TOP);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n<text x=\"{LEFT}\" y=\"20\">{title}</text>\n"
    );
    for value in x.decades() {
        let at = x.at(value);
        let _ = writeln!(text, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>");
        let _ = writeln!(text, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>", bottom + 18.0);
    }
    for value in y.decades() {
        let at = y.at(value);
        let _ = writeln!(text, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>");
        let _ = writeln!(text, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", LEFT - 8.0, at + 4.0);
    }
    let _ = writeln!(text, "<path class=\"axis\" fill=\"none\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>");
    let (middle, foot) = (f64::midpoint(LEFT, right), HEIGHT - 12.0);
    let _ = writeln!(text, "<text x=\"{middle}\" y=\"{foot}\" text-anchor=\"middle\">{x_axis}</text>");
    let _ = writeln!(text, "<text x=\"8\" y=\"{}\">{y_axis}</text>", TOP - 8.0);
    for (number, line) in lines.iter().enumerate() {
        draw(&mut text, &x, &y, line, number);
    }
    text + "</svg>\n"
}

/// Three digits are more than a run repeats.
pub fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Values stand above the first line's points and below the others', so that lines that are close do not hide them.
fn draw(text: &mut String, x: &Scale, y: &Scale, line: &Line, number: usize) {
    let colour = COLOURS[number % COLOURS.len()];
    let places: Vec<(f64, f64)> = line.points.iter().map(|point| (x.at(point.x), y.at(point.y))).collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    let _ = writeln!(text, "<path class=\"line\" stroke=\"{colour}\" d=\"M{}\"/>", path.join("L"));
    let shift = if number == 0 { -10.0 } else { 6.0 + 13.0 * number as f64 };
    for (point, (x, y)) in line.points.iter().zip(&places) {
        let _ = writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>");
        let value = short(point.y);
        // On the axis there are the numbers of its decades.
        let (at, anchor) = if *x - LEFT < 12.0 { (x + 8.0, "start") } else { (*x, "middle") };
        let _ = writeln!(
            text,
            "<text x=\"{at:.1}\" y=\"{:.1}\" style=\"fill:{colour}\" text-anchor=\"{anchor}\">{value}</text>",
            y + shift
        );
    }
    // Beside the plot, where no line can be under it.
    let (x, y) = (WIDTH - RIGHT + 12.0, TOP + 18.0 * number as f64);
    let _ = writeln!(text, "<text x=\"{x}\" y=\"{y}\" style=\"fill:{colour}\">{}</text>", line.name);
}
