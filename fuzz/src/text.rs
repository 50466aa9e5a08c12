//! Single prefixes, and the configuration.

use std::{net::IpAddr, path::Path};

use naikon_userspace::{
    config::{Config, Overrides},
    prefix::Prefix,
};

/// A prefix is what its text says, and its text is read as the same prefix.
pub fn prefix(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let address = text.parse::<IpAddr>();
    let Ok(prefix) = text.parse::<Prefix>() else {
        assert!(address.is_err(), "{text} is an address");
        return;
    };
    assert_eq!(prefix.to_string().parse(), Ok(prefix), "{text}");
    assert_eq!(Prefix::new(prefix.address(), prefix.length()), Some(prefix), "{text}");
    // A mapped address counts as IPv4, also where it is the last of an IPv6 prefix.
    let is_mapped = prefix.last().to_canonical() != prefix.last();
    assert!(prefix.contains_address(prefix.address()), "{text}");
    assert_eq!(prefix.contains_address(prefix.last()), !is_mapped, "{text}");
    if let Ok(address) = address {
        assert_eq!(Prefix::host(address), prefix);
    }
    for length in 0..=prefix.length() {
        assert!(prefix.truncated(length).is_some_and(|wider| wider.contains(&prefix)), "{text} in /{length}");
    }
}

/// A configuration that is taken is whole and means one thing; one that is refused is so in one line.
pub fn config(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let folder = Path::new("/etc/naikon");
    let merge = || Config::merge(Some((text, folder)), &Overrides::default());
    let config = match merge() {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(merge().as_ref(), Ok(&config));
    assert!(config.needs_restart(&config).is_empty());
    let lists = config.lists.iter().map(|list| &list.path);
    let mut paths = lists.chain(&config.allow).chain(&config.pin_dir).chain([&config.state_dir, &config.control]);
    assert!(paths.all(|path| path.is_absolute()), "{config:?}");
    for list in &config.lists {
        let is_name = |name: &String| !name.is_empty() && !name.contains(['/', '\0', '\n']);
        assert!(list.name.as_ref().is_none_or(is_name), "{list:?}");
        let is_percent = |value: Option<u8>| value.is_none_or(|value| value <= 100);
        assert!(is_percent(list.filter.trust) && is_percent(list.filter.min_confidence), "{list:?}");
        assert!(list.filter.max_age_seconds.is_none_or(|seconds| seconds > 0), "{list:?}");
    }
}
