//! One snapshot of `naikon top` as text: for pipes, logs and tickets.

use std::io::{self, Write};

use super::cells;
use crate::{
    cli::{
        output::{self, Paint},
        status,
    },
    text,
    top::{Top, View},
};

/// Rows of a table at most.
const ROWS: usize = 20;

pub(super) fn print(out: &mut impl Write, top: &Top, paint: Paint) -> io::Result<()> {
    let Some(sample) = top.sample() else { return Ok(()) };
    let status = &sample.totals.status;
    writeln!(out, "{}", status::headline(status, paint))?;
    for problem in &status.problems {
        writeln!(out, "{} {}", paint.red("X"), text::escape(problem))?;
    }
    for remark in status::remarks(status) {
        writeln!(out, "{} {}", paint.yellow("!"), text::escape(&remark))?;
    }
    let passed = sample.totals.interfaces.iter().map(|interface| interface.passed).sum::<u64>();
    for (name, traffic) in [("dropped", status.dropped), ("monitored", status.monitored)] {
        let [packets, bytes] = [traffic.packets, traffic.bytes].map(output::thousands);
        writeln!(out, "{name:<9}  {packets} packets, {bytes} bytes")?;
    }
    writeln!(out, "{:<9}  {} packets", "passed", output::thousands(passed))?;
    let census = top.census();
    let cut = top.cut().map(|(told, all)| format!(", of the latest {told} of {all} pairs")).unwrap_or_default();
    writeln!(
        out,
        "{:<9}  {} hosts, {} indicators, {} pairs regular as a beacon{cut}",
        "hits", census.hosts, census.indicators, census.regular
    )?;
    for view in View::ALL {
        let Some(table) = top.table_of(view).filter(|table| !table.rows.is_empty()) else { continue };
        // A trend takes time, which one look has not.
        let is_shown = |place: &usize| table.columns.get(*place).is_some_and(|column| column.title != "TREND");
        let columns: Vec<usize> = (0..table.columns.len()).filter(is_shown).collect();
        let head = columns.iter().filter_map(|place| Some(table.columns.get(*place)?.title.to_owned())).collect();
        let row = |row: &Vec<crate::top::Cell>| {
            columns.iter().filter_map(|place| row.get(*place)).map(cells::text).collect::<Vec<String>>()
        };
        let rows: Vec<Vec<String>> = [head].into_iter().chain(table.rows.iter().take(ROWS).map(row)).collect();
        writeln!(out)?;
        output::table(out, &rows, paint)?;
        if table.rows.len() > ROWS {
            writeln!(out, "and {} more", table.rows.len() - ROWS)?;
        }
    }
    if !sample.totals.reloads.is_empty() {
        let head = ["RELOADED", "RESULT", "GENERATION", "CHANGE", "TOOK", "REFUSED"].map(str::to_owned).to_vec();
        let row = |past: &crate::protocol::PastReload| {
            vec![
                past.at.to_string(),
                past.result.as_str().to_owned(),
                past.generation.to_string(),
                cells::change(past.added, past.removed),
                cells::took(past.seconds),
                text::escape(&past.refused.join("; ")),
            ]
        };
        let rows: Vec<Vec<String>> =
            [head].into_iter().chain(sample.totals.reloads.iter().take(ROWS).map(row)).collect();
        writeln!(out)?;
        output::table(out, &rows, paint)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::tests::sample;

    #[test]
    fn pairs_that_were_not_told_are_counted() {
        let mut many = sample(2);
        let told = |sample| {
            let (mut top, mut out) = (Top::default(), Vec::new());
            top.feed(sample);
            print(&mut out, &top, Paint::NONE).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(told(many.clone()).contains("1 pairs regular as a beacon\n"));
        many.hits.matching = 5000;
        let cut = told(many);
        assert!(cut.contains("1 pairs regular as a beacon, of the latest 4 of 5000 pairs\n"), "{cut}");
    }
}
