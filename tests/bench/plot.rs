//! The plot: nanoseconds by list size, both logarithmic, for innocent packets and for hits. An SVG written by hand:
//! lines, text and nothing that a viewer must fetch.

use std::fmt::Write as _;

use crate::lists::Family;
use crate::results::{Results, entries};
use crate::traffic::Case;
use crate::veth::Contender;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const TOP: f64 = 54.0;
/// Decades of the vertical axis: 1 ns to 10 us.
const DECADES: f64 = 4.0;

/// Name, colour and points (entries, nanoseconds) of one line.
type Series = (&'static str, &'static str, Vec<(usize, f64)>);

/// Both panels.
pub(crate) fn svg(results: &Results) -> String {
    let panels = [
        ("an innocent packet", series(results, Case::RandomMiss)),
        ("a packet of a listed host", series(results, Case::HitSource)),
    ];
    let (width, height) = (panels.len() as f64 * (WIDTH + LEFT + 24.0), HEIGHT + TOP + 84.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (index, (title, series)) in panels.iter().enumerate() {
        panel(&mut text, index as f64 * (WIDTH + LEFT + 24.0) + LEFT, title, series);
    }
    let mut x = LEFT;
    for (name, colour, _) in &panels[0].1 {
        put(
            &mut text,
            format_args!("<rect x=\"{x}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>", height - 22.0),
        );
        put(&mut text, format_args!("<text x=\"{}\" y=\"{}\">{name}</text>", x + 20.0, height - 16.0));
        x += 44.0 + name.len() as f64 * 6.6;
    }
    text.push_str("</svg>\n");
    text
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a string takes everything");
}

/// What each filter adds to a program that does nothing: in the kernel where it is a program, else over veth.
fn series(results: &Results, case: Case) -> Vec<Series> {
    let program = |family: Family, naikon: bool| -> Vec<(usize, f64)> {
        let rows = results.lookups.iter().filter(|row| row.family == family && row.case == case.name());
        let unit = rows.filter(|row| row.caps == crate::object::Caps::Unit);
        let above = |row: &crate::lookups::Row| {
            if naikon { row.naikon().minimum - row.null().minimum } else { row.plain().minimum - row.null().minimum }
        };
        unit.map(|row| (row.size, above(row))).collect()
    };
    let rival = |contender: Contender| -> Vec<(usize, f64)> {
        let above = |outcome: &crate::veth::Outcome| match case {
            Case::RandomMiss => outcome.miss_adds(contender),
            _ => Some(outcome.of(contender)?.1.minimum - outcome.of(Contender::NullDrop)?.1.minimum),
        };
        results.veth.iter().filter_map(|outcome| Some((outcome.size, above(outcome)?))).collect()
    };
    vec![
        ("naikon", "#0a7d32", program(Family::V4, true)),
        ("naikon, IPv6", "#7fbf7b", program(Family::V6, true)),
        ("two LPM lookups in XDP", "#c51b1b", program(Family::V4, false)),
        ("the same, IPv6", "#f4a582", program(Family::V6, false)),
        ("nftables, netdev ingress", "#2166ac", rival(Contender::NftIngress)),
        ("ipset, iptables raw", "#762a83", rival(Contender::Ipset)),
    ]
}

fn panel(text: &mut String, left: f64, title: &str, series: &[Series]) {
    let mut sizes: Vec<usize> = series.iter().flat_map(|(.., points)| points.iter().map(|(size, _)| *size)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let logarithm = |size: usize| (size.max(1) as f64).log10();
    let (first, last) =
        (sizes.first().map_or(1.0, |size| logarithm(*size)), sizes.last().map_or(6.0, |size| logarithm(*size)));
    let x = |size: usize| left + (logarithm(size) - first) / (last - first).max(0.1) * (WIDTH - 30.0) + 15.0;
    let y = |ns: f64| TOP + HEIGHT - ns.max(1.0).log10().min(DECADES) / DECADES * HEIGHT;
    put(text, format_args!("<text x=\"{left}\" y=\"24\" font-size=\"15\">What {title} pays</text>"));
    put(
        text,
        format_args!("<text x=\"{left}\" y=\"42\" fill=\"#555\">ns above doing nothing, by entries of the list</text>"),
    );
    for (ns, name) in [(1.0, "1"), (10.0, "10"), (100.0, "100"), (1000.0, "1 000"), (10_000.0, "10 000")] {
        let at = y(ns);
        put(text, format_args!("<path d=\"M{left} {at}h{WIDTH}\" stroke=\"#ddd\"/>"));
        put(text, format_args!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", left - 6.0, at + 4.0));
    }
    for size in sizes {
        let (at, bottom) = (x(size), TOP + HEIGHT + 18.0);
        put(text, format_args!("<text x=\"{at}\" y=\"{bottom}\" text-anchor=\"middle\">{}</text>", entries(size)));
    }
    for (_, colour, points) in series {
        let mut points = points.clone();
        points.sort_unstable_by_key(|(size, _)| *size);
        let path: Vec<String> = points.iter().map(|(size, ns)| format!("{:.1},{:.1}", x(*size), y(*ns))).collect();
        put(
            text,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join(" ")
            ),
        );
        for (size, ns) in points {
            let (at, up) = (x(size), y(ns));
            put(text, format_args!("<circle cx=\"{at:.1}\" cy=\"{up:.1}\" r=\"3\" fill=\"{colour}\"/>"));
            put(
                text,
                format_args!(
                    "<text x=\"{at:.1}\" y=\"{:.1}\" font-size=\"10\" fill=\"{colour}\" text-anchor=\"middle\">{ns:.0}</text>",
                    up - 6.0
                ),
            );
        }
    }
}

#[test]
fn plot_of_nothing_is_a_drawing_all_the_same() {
    let text = svg(&Results::default());
    assert!(text.starts_with("<svg") && text.ends_with("</svg>\n") && !text.contains("NaN"), "{text}");
}
