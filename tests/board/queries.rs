//! The queries of the dashboard and of the alert rules, and which metrics and labels each of them names.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// A label by which a metric is chosen, and its value where it is one value.
type Matcher = (String, Option<String>);

/// A query of Prometheus.
pub(crate) struct Query {
    /// The panel or alert.
    pub(crate) of: String,
    pub(crate) text: String,
    /// Names of metrics, and how each is chosen.
    pub(crate) metrics: Vec<(String, Vec<Matcher>)>,
    /// Labels that its result should have.
    pub(crate) labels: BTreeSet<String>,
}

impl fmt::Display for Query {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.of, self.text)
    }
}

fn packaged(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("packaging").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn rules_text() -> String {
    packaged("prometheus/naikon.rules.yml")
}

pub(crate) fn rule_tests_text() -> String {
    packaged("prometheus/naikon.test.yml")
}

/// Every query of the dashboard: of panels, annotations and variables.
pub(crate) fn panels() -> Vec<Query> {
    let dashboard: Value = serde_json::from_str(&packaged("grafana/naikon.json")).unwrap();
    let mut found = Vec::new();
    for panel in
        dashboard["panels"].as_array().unwrap().iter().chain(dashboard["annotations"]["list"].as_array().unwrap())
    {
        let title = panel["title"].as_str().or(panel["name"].as_str()).unwrap();
        let targets = panel["targets"].as_array().cloned().unwrap_or_else(|| vec![panel.clone()]);
        for target in targets.iter().filter(|target| target["expr"].is_string()) {
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let legend = legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).map(str::to_owned);
            found.push(read(title, target["expr"].as_str().unwrap(), legend.collect()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let Some(inner) = variable["definition"].as_str().and_then(|text| text.strip_prefix("label_values(")) else {
            continue;
        };
        let (metric, label) = inner.trim_end_matches(')').split_once(", ").unwrap();
        found.push(read(variable["name"].as_str().unwrap(), metric, [label.to_owned()].into()));
    }
    found
}

/// Every alert's query, with the labels that its words need.
pub(crate) fn rules() -> Vec<Query> {
    let text = rules_text();
    let rule = |block: &str| {
        let name = block.lines().next().unwrap();
        let expr = block.lines().find_map(|line| line.trim().strip_prefix("expr: ")).unwrap();
        let labels = block.split("$labels.").skip(1);
        let labels =
            labels.map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned());
        read(name, expr, labels.collect())
    };
    text.split("- alert: ").skip(1).map(rule).collect()
}

/// Takes a query apart, as far as names go: words, what stands in braces behind a metric, and what follows `by`.
fn read(of: &str, text: &str, mut labels: BTreeSet<String>) -> Query {
    let mut metrics = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '"') {
        rest = &rest[start..];
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted.split_once('"').unwrap_or_else(|| panic!("{text}: a quotation mark")).1;
            continue;
        }
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        if word == "by" {
            let (inner, after) = after.trim_start().strip_prefix('(').and_then(|inner| inner.split_once(')')).unwrap();
            labels.extend(inner.split(',').map(|label| label.trim().to_owned()));
            rest = after;
        } else if word == "up" || word.starts_with("naikon_") || word.starts_with("process_") {
            let mut matchers = Vec::new();
            if let Some((inner, after)) = after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                for matcher in inner.split(',') {
                    let (label, value) = matcher.split_once('=').unwrap();
                    let exact = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                    // What is ruled out need not be served.
                    let exact = exact.filter(|_| !label.ends_with('!'));
                    matchers.push((label.trim_end_matches('!').to_owned(), exact.map(str::to_owned)));
                }
                rest = after;
            }
            metrics.push((word.to_owned(), matchers));
        }
    }
    assert!(!metrics.is_empty(), "{of}: {text} should name a metric");
    Query { of: of.to_owned(), text: text.to_owned(), metrics, labels }
}

#[test]
fn names_are_read_out_of_queries() {
    let query = read(
        "x",
        "topk(2, sum by (list, le) (rate(naikon_a_total{instance=~\"$x\",result=\"by (no)\",hook!=\"x\"}[5m]))) / naikon_b or vector(0)",
        ["legend".to_owned()].into(),
    );
    let names: Vec<&str> = query.metrics.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["naikon_a_total", "naikon_b"]);
    assert_eq!(
        query.metrics[0].1,
        [("instance".into(), None), ("result".into(), Some("by (no)".into())), ("hook".into(), None)]
    );
    assert_eq!(query.labels.iter().map(String::as_str).collect::<Vec<_>>(), ["le", "legend", "list"]);
}
