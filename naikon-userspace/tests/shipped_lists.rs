//! The shipped lists agree with each other: what the STIX bundle tells of the drop list's addresses.
//!
//! The folder is no part of the software and may be left out; then there is nothing to check. No address stands here.

use std::{collections::BTreeSet, fs, path::Path};

use naikon_userspace::{
    list::{Format, Parsed, parse},
    provenance::{Time, Tlp},
};

/// A file of `lists/`; `None` where the folder was left out.
fn shipped(name: &str) -> Option<Vec<u8>> {
    let lists = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lists");
    let bytes = fs::read(lists.join(name)).ok();
    assert!(bytes.is_some() || !lists.exists(), "lists/{name} is missing");
    bytes
}

fn prefixes(parsed: &Parsed) -> BTreeSet<String> {
    parsed.entries.iter().map(|entry| entry.prefix.to_string()).collect()
}

#[test]
fn the_bundle_tells_of_the_addresses_of_the_drop_list() {
    let Some(bundle) = shipped("context/naikon-2025-01.stix.json") else { return };
    let rows = parse(&shipped("drop/naikon-2025-01.csv").unwrap()).unwrap();
    let bundle = parse(&bundle).unwrap();
    assert_eq!(bundle.format, Format::Stix);
    assert_eq!((bundle.read, bundle.entries.len()), (7, 7));
    assert_eq!(bundle.diagnostics.errors() + bundle.diagnostics.notices(), 0);
    // The operator may add rows to the list; the bundle is of those that the note spells out.
    assert!(prefixes(&bundle).is_subset(&prefixes(&rows)));
    for entry in &bundle.entries {
        let context = bundle.context(entry).unwrap();
        let subject = &context.subject;
        assert_eq!(subject.actors, ["Naikon"]);
        assert_eq!(subject.campaigns, ["Naikon 2025-01"]);
        let techniques = [
            "T1071",
            "T1071.001",
            "T1071.002",
            "T1071.003",
            "T1071.004",
            "T1583",
            "T1583.001",
            "T1583.002",
            "T1583.003",
            "T1583.004",
            "T1102",
            "T1102.001",
            "T1102.002",
            "T1102.003",
        ];
        assert_eq!(subject.attack, techniques);
        assert_eq!(subject.tags, ["malicious-activity", "mitre-attack:command-and-control"]);
        assert_eq!(subject.kind.as_deref(), Some("ipv4-addr"));
        assert_eq!((context.tlp, context.confidence), (Some(Tlp::Amber), Some(85)));
        assert_eq!(context.valid_from, Time::parse("2025-01-01"));
        assert_eq!(context.valid_until, None);
        assert!(context.id.as_deref().unwrap().starts_with("indicator--"));
    }
}

/// The rules of STIX 2.1 that a hand would break; the bundle as it is was also checked with OASIS's stix2-validator.
#[test]
fn the_bundle_is_whole() {
    let Some(bundle) = shipped("context/naikon-2025-01.stix.json") else { return };
    let bundle: serde_json::Value = serde_json::from_slice(&bundle).unwrap();
    let objects = bundle["objects"].as_array().unwrap();
    let ids: BTreeSet<&str> = objects.iter().map(|object| object["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), objects.len(), "an id is there twice");
    for object in objects {
        let (id, kind) = (object["id"].as_str().unwrap(), object["type"].as_str().unwrap());
        assert!(id.starts_with(&format!("{kind}--")), "{id}");
        assert_eq!(object["spec_version"], "2.1", "{id}");
        let is_marking = kind == "marking-definition";
        for key in ["created", "modified"] {
            let time = object[key].as_str().unwrap_or_default();
            assert!((is_marking && key == "modified") || time.ends_with(".000Z"), "{id} {key}");
        }
        let marking = "marking-definition--f88d31f6-486f-44da-b317-01333bde0b82";
        assert!(is_marking || object["object_marking_refs"] == serde_json::json!([marking]), "{id} is not TLP:AMBER");
        for key in ["created_by_ref", "source_ref", "target_ref"] {
            let target = &object[key];
            assert!(target.is_null() || ids.contains(target.as_str().unwrap()), "{id}: {key} leads nowhere");
        }
    }
}
